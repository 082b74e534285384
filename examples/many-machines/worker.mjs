// A service: node worker.mjs, on as many machines as it takes. It runs what it serves in processes of its own.
import { serve } from 'express-unblock/bullmq';

const service = serve({
  connection: process.env.REDIS_URL,
  queue: 'primes',
  modules: [new URL('./tasks.mjs', import.meta.url)],
  workers: Number(process.env.WORKERS ?? 1),
});

// A deploy: what it has begun may finish, and takes no more.
process.once('SIGTERM', () => service.close({ grace: '20s' }));

await service.ready();
