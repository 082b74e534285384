import http from 'node:http';
import { parseArgs } from 'node:util';
import { Worker } from 'node:worker_threads';
import express from 'express';
import { watch } from 'express-unblock/watch';
import { seeded } from '../lab/stats.mjs';
import { kinds } from './kinds.mjs';

/**
 * `npm run samples -- [--samples 300000] [--seed S]`: takes the watch's samples at random moments inside Node's and an
 * app's code, many more of them than a watch would, and checks that everything the app does is still right. Exits with
 * 1 if anything was not.
 */
const { values } = parseArgs({
  options: {
    samples: { type: 'string', default: '300000' },
    seed: { type: 'string', default: String(Date.now() % 1_000_000) },
  },
});
const wanted = Number(values.samples);
const seed = Number(values.seed);
if (![wanted, seed].every(Number.isSafeInteger)) {
  console.error('usage: npm run samples -- [--samples N] [--seed S]');
  process.exit(2);
}
const HUNG_MS = 60_000;
const SHOWN = 20;

console.log(`samples: ${wanted}, seed ${seed}, Node ${process.version}`);
const faults = new Map();
function fault(what) {
  faults.set(what, (faults.get(what) ?? 0) + 1);
  if (faults.size <= SHOWN && faults.get(what) === 1) console.log(`FAULT: ${what}`);
}
process.on('uncaughtException', (error) => fault(`uncaught: ${error.stack}`));
process.on('unhandledRejection', (error) => fault(`unhandled: ${error?.stack ?? error}`));

// Its own samples come only with blocks; these are none.
watch({ threshold: '10m', log: fault });

const app = express();
app.use(express.json({ limit: '1mb' }));
app.post('/:kind/:number', async (req, res) => {
  const { kind, number } = req.params;
  const wrong = await kinds[kind]();
  if (wrong !== undefined) fault(`${kind}: ${wrong}`);
  res.json({ kind, number, echo: req.body });
});
const server = app.listen(0, '127.0.0.1');
await new Promise((resolve) => server.once('listening', resolve));

const cells = new Int32Array(new SharedArrayBuffer(12));
const sampler = new Worker(new URL('sampler.mjs', import.meta.url), { workerData: { cells, seed, wanted } });
sampler.on('error', (error) => fault(`sampler: ${error.stack}`));
let sampling = true;
const sampled = new Promise((resolve) => {
  sampler.once('message', resolve);
  sampler.once('exit', resolve); // After an error.
}).then(() => {
  sampling = false;
});

const agent = new http.Agent({ keepAlive: true });
const began = performance.now();
let number = 0;
await Promise.all([1, 2, 3].map((client) => requestWhileSampling(seeded(seed + client))));
await sampled;

console.log(
  `${number} requests, ${Atomics.load(cells, 0)} samples in ${Math.round((performance.now() - began) / 1000)} s`,
);
console.log(`faults: ${[...faults.values()].reduce((sum, count) => sum + count, 0)}`);
process.exit(faults.size > 0 || Atomics.load(cells, 0) < wanted ? 1 : 0);

async function requestWhileSampling(random) {
  const names = Object.keys(kinds);
  while (sampling) {
    const kind = names[Math.floor(random() * names.length)];
    await request(kind, number++, { text: 'x'.repeat(Math.floor(random() * 20_000)), kind });
  }
}

function request(kind, id, body) {
  const sent = JSON.stringify(body);
  return new Promise((resolve) => {
    const req = http.request(
      {
        agent,
        port: server.address().port,
        host: '127.0.0.1',
        method: 'POST',
        path: `/${encodeURIComponent(kind)}/${id}`,
        headers: { 'Content-Type': 'application/json', 'Content-Length': Buffer.byteLength(sent) },
        timeout: HUNG_MS,
      },
      async (res) => {
        const received = await res.setEncoding('utf8').toArray();
        if (received.join('') !== JSON.stringify({ kind, number: String(id), echo: body })) fault(`answer: ${kind}`);
        resolve();
      },
    );
    req.on('timeout', () => req.destroy(new Error('hung')));
    req.on('error', (error) => {
      fault(`request: ${kind}: ${error.message}`);
      resolve();
    });
    req.end(sent);
  });
}
