// A web process: node caller.mjs OPTIONS; makes the calls that it is told, and tells how they end.
import { offload } from 'express-unblock';
import { connectPool } from 'express-unblock/bullmq';

const pool = connectPool(JSON.parse(process.argv[2]));
const tasks = offload.module(new URL('./tasks.mjs', import.meta.url), { pool });
await pool.ready();
process.send('ready');

process.on('message', async ({ calls, name, args, timeout = 30_000 }) => {
  const call = tasks[name].with({ timeout });
  const ends = Array.from({ length: calls }, (_, n) => call(...args.map((arg) => (arg === '#' ? String(n) : arg))));
  const outcomes = await Promise.allSettled(ends);
  process.send(outcomes.map(({ value, reason }) => reason?.code ?? value));
});
process.once('disconnect', () => process.exit());
