// The web side: of a pool on this machine, only `pool` is different.
import { once } from 'node:events';
import express from 'express';
import { offload, problemDetails, timeout } from 'express-unblock';
import { connectPool } from 'express-unblock/bullmq';

const pool = connectPool({ connection: process.env.REDIS_URL, queue: 'primes' });
const tasks = offload.module(new URL('./tasks.mjs', import.meta.url), { pool });

const app = express();

app.get(
  '/primes/:below',
  timeout('10s'),
  tasks.countPrimes.handler((req) => [Math.min(Number(req.params.below), 50_000_000)]),
);

// One line of JSON for each report of progress, then one with the result.
app.get('/primes/:below/live', async (req, res) => {
  const line = (data) => res.write(`${JSON.stringify(data)}\n`);
  res.type('application/x-ndjson');
  line(await tasks.countPrimes.with({ onProgress: line })(Math.min(Number(req.params.below), 50_000_000)));
  res.end();
});

app.get('/workers', (_req, res) => res.json(pool.stats()));

app.use(problemDetails());

await pool.ready(); // Until the first service is up.
const server = app.listen(process.env.PORT ?? 3000, () => {
  console.log(`Many machines: http://localhost:${server.address().port}/primes/1000000`);
});

process.once('SIGTERM', async () => {
  server.close();
  server.closeIdleConnections();
  await once(server, 'close');
  await pool.close();
});
