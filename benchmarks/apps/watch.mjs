import { setTimeout as wait } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import express from 'express';
import { watch } from 'express-unblock/watch';
import { serve } from '../lab/http-app.mjs';
import { seeded } from '../lab/stats.mjs';

if (process.argv[2] === 'watched') watch({ threshold: '100ms', log() {} });

const app = express();
app.get('/', async (_req, res) => {
  await undefined;
  res.json({ hello: 'world' });
});

/** The watch is awake for three seconds after a request. */
const ASLEEP_MS = 3500;
const SETTLED_MS = 300;
const SPAN_MS = 2500;
/** An Express handler has about so many functions above it. */
const DEPTH = 25;
const STEPS = 40;
const random = seeded(1);
const numbers = Array.from({ length: 20_000 }, random);

function work(depth = DEPTH) {
  if (depth > 0) return work(depth - 1);
  const before = threadCpu();
  for (let step = 0; step < STEPS; step++) numbers.toSorted();
  return threadCpu() - before;
}

function threadCpu() {
  const { user, system } = (process.threadCpuUsage ?? process.cpuUsage).call(process);
  return user + system;
}

await serve(app, {
  /** CPU time of the process for each second in which there is nothing to do, in ms: asleep, or after a request. */
  async idle({ awake, port }) {
    await (await fetch(`http://127.0.0.1:${port}/`)).text();
    await wait(awake ? SETTLED_MS : ASLEEP_MS);
    const before = process.cpuUsage();
    await wait(SPAN_MS);
    const { user, system } = process.cpuUsage(before);
    return (user + system) / SPAN_MS;
  },

  memory: () => process.memoryUsage.rss() / 1024 ** 2,

  /** What a sample costs the thread that it is taken from, in µs of its CPU time. */
  async sample(rounds) {
    const cells = new Int32Array(new SharedArrayBuffer(12));
    const workerData = { cells, seed: 1, wanted: 1e9, perSession: 1 };
    new Worker(new URL('../samples/sampler.mjs', import.meta.url), { workerData });
    const costs = [];
    for (let round = 0; round <= rounds; round++) {
      Atomics.store(cells, 2, 1);
      while (Atomics.load(cells, 2) !== 2) await wait(1); // It is in the middle of a sample.
      const alone = work();
      Atomics.store(cells, 0, 0);
      Atomics.store(cells, 2, 0);
      Atomics.notify(cells, 2);
      while (Atomics.load(cells, 0) === 0) await wait(1);
      Atomics.store(cells, 0, 0);
      costs.push((work() - alone) / Math.max(1, Atomics.load(cells, 0)));
    }
    return costs.slice(1); // The first round warms up.
  },
});
