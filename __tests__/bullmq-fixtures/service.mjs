// One machine: node service.mjs OPTIONS
import { serve } from 'express-unblock/bullmq';

const { grace = 5000, modules = ['./tasks.mjs'], ...options } = JSON.parse(process.argv[2]);
const service = serve({ ...options, modules: modules.map((one) => new URL(one, import.meta.url)) });
await service.ready();
process.send('ready');

async function leave() {
  await service.close({ grace });
  process.disconnect?.();
}
process.once('SIGTERM', leave);
process.once('disconnect', () => process.exit());
process.on('message', () => process.send(service.stats()));
