// A service that serves itself: node both.mjs OPTIONS

import { serve } from 'express-unblock/bullmq';
import { isWorker } from 'express-unblock/worker';

export const where = () => ({ isWorker, argument: process.argv[2] });

const service = serve({
  ...JSON.parse(isWorker ? '{"connection":"redis://localhost"}' : process.argv[2]),
  modules: [new URL(import.meta.url)],
});
await service.ready();
process.send?.('ready');
process.once('disconnect', () => process.exit());
