import { serve } from 'express-unblock/bullmq';

const service = serve({ ...JSON.parse(process.argv[2]), modules: [new URL('./tasks.mjs', import.meta.url)] });
await service.ready();
process.send('ready');
process.once('SIGTERM', () => service.close({ grace: 3000 }).then(() => process.disconnect?.()));
process.once('disconnect', () => process.exit());
