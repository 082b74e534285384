import { AsyncLocalStorage } from 'node:async_hooks';
import { once } from 'node:events';
import { setTimeout as wait } from 'node:timers/promises';
import { isDeepStrictEqual } from 'node:util';
import express from 'express';
import { createPool, limitInput, offload, problemDetails, timeout } from 'express-unblock';
import { watchLag } from './lag.mjs';
import { Ledger } from './ledger.mjs';
import { LIMIT, MAX_QUEUE, NATURAL_END_MS, SPARE, WORKERS } from './plan.mjs';
import * as functions from './tasks.mjs';

/** The app under test, in a process of its own: all three middlewares, every kind of task in every way to offload it. */
const trace = process.argv[2];
const lag = watchLag();
const pool = createPool({ workers: WORKERS, spare: SPARE, maxQueue: MAX_QUEUE, memory: '48mb' });
const requests = new AsyncLocalStorage();
const ledger = new Ledger(pool, requests);

const { default: _, ...named } = functions;
const ways = {
  interrupt: Object.fromEntries(Object.entries(named).map(([name, fn]) => [name, offload(fn, { pool })])),
  kill: Object.fromEntries(Object.entries(named).map(([name, fn]) => [name, offload(fn, { pool, reclaim: 'kill' })])),
  module: offload.module(new URL('./tasks.mjs', import.meta.url), { pool }),
};

const app = express();
app.get('/ping', (req, res) => res.json({ id: req.headers['x-id'] }));
app.use((req, res, next) => {
  const { 'x-id': id } = req.headers;
  res.setHeader('x-id', id);
  requests.run(ledger.open(id), next);
});
app.use(timeout((req) => Number(req.headers['x-deadline'])));
app.use(limitInput(LIMIT, { json: { depth: 16 } }));
app.use(express.json({ limit: '10mb' }));
app.use((_req, _res, next) => {
  requests.getStore().ran++;
  next();
});

/** A thread's text. It tells that its process lives while native code blocks the main thread, which nothing interrupts. */
const beating = `
const { id, trace, end, blocked } = require('node:worker_threads').workerData;
const until = Date.now() + end;
const timer = setInterval(() => {
  if (blocked[0] === 1) require('node:fs').appendFileSync(trace, id + ' ' + Date.now() + '\\n');
  if (Date.now() > until) clearInterval(timer);
}, 50);
`;
const argsOf = ({ id, nonce, ms, variant }) => ({ id, nonce, ms, variant, trace, end: NATURAL_END_MS, beating });

for (const [way, run] of Object.entries(ways)) {
  for (const name of Object.keys(named)) {
    app.post(
      `/handler/${way}/${name}`,
      run[name].handler(({ body }) => [argsOf(body)]),
    );
    const special = SPECIAL(name);
    app.post(`/call/${way}/${name}`, async (req, res) => {
      res.json(await special(run[name], argsOf(req.body), req));
    });
  }
}

/** Tasks that are called in another way than with their arguments alone. */
function SPECIAL(name) {
  const calls = {
    text: async (run, args) => JSON.parse(await run(args)),
    bytes: async (run, args) => JSON.parse((await run(args)).toString()),
    nothing: async (run, args) => ({ ...proofOf(args), result: String(await run(args)) }),
    async roundTrip(run, args) {
      const value = new Map([[args.nonce, [new Date(args.id), BigInt(args.id), Buffer.from(args.nonce), Number.NaN]]]);
      if (!isDeepStrictEqual(await run(value), value)) throw new Error('mangled');
      return proofOf(args);
    },
    async progress(run, args) {
      const steps = [];
      const result = await run.with({ onProgress: (step) => steps.push(step) })(args);
      if (steps.length !== 5 || steps.some(({ id, step }, at) => id !== args.id || step !== at)) {
        throw new Error(`wrong progress: ${JSON.stringify(steps)}`);
      }
      return result;
    },
  };
  return calls[name] ?? ((run, args) => run(args));
}

const proofOf = ({ id, nonce }) => functions.echo({ id, nonce });

app.post('/call/:way/fan', async ({ params, body }, res) => {
  const args = argsOf(body);
  const { echo, pause, compute } = ways[params.way];
  const nonces = [args.nonce, `${args.nonce}1`, `${args.nonce}2`];
  const runs = [echo, pause, compute].map((run, at) => run({ ...args, nonce: nonces[at] }));
  await Promise.allSettled(runs);
  const results = await Promise.all(runs);
  const right = results.every((result, at) => isDeepStrictEqual(result, proofOf({ ...args, nonce: nonces[at] })));
  res.json(right ? results[0] : { results });
});
app.post('/call/:way/unclonableArgument', async ({ params, body }, res) => {
  res.json(await ways[params.way].echo(argsOf(body), () => {}));
});
app.post('/call/:way/ownTimeout', async ({ params, body }, res) => {
  res.json(await ways[params.way].spin.with({ timeout: body.ms })(argsOf(body)));
});
app.post('/call/:way/ownSignal', async ({ params, body }, res) => {
  res.json(await ways[params.way].spin.with({ signal: AbortSignal.timeout(body.ms) })(argsOf(body)));
});

/** Offloaded from the start, so that every worker imports them first; the late one when it is first asked for. */
const offloadModule = (name) => offload.module(new URL(name, import.meta.url), { pool });
const imported = {
  slow: offloadModule('slow.mjs'),
  throws: offloadModule('broken.mjs'),
  exits: offloadModule('broken.mjs?exits'),
};
app.post('/imported/:name', async ({ params, body }, res) => {
  imported.late ??= offloadModule('slow.mjs?late');
  res.json(await imported[params.name].echo(argsOf(body)));
});

/** Work that stays in this process. */
const local = express.Router();
local.post('/later', async ({ body }, res) => {
  await wait(body.ms);
  res.json(proofOf(body));
});
local.post('/mute', () => {});
local.post('/throwsLate', async ({ body }) => {
  await wait(body.ms);
  throw Object.assign(new Error('late'), { status: 418 });
});
const stream = async ({ body }, res) => {
  res.type('json').write(' ');
  for (let step = 0; step < 10; step++) {
    await wait(body.ms / 10);
    res.write(' '.repeat(100));
  }
  res.end(JSON.stringify(proofOf(body)));
};
local.post('/stream', stream);
local.post(
  '/cut',
  timeout((req) => Number(req.headers['x-deadline']), { until: 'response' }),
  stream,
);
local.post('/extend', async (req, res) => {
  req.deadline.extend(req.body.ms + 2000);
  await wait(req.body.ms);
  res.json(proofOf(req.body));
});
local.post('/silent', () => {});
app.use('/local', local);
app.use('/local/silent', (_error, _req, _res, _next) => {});
app.use(problemDetails());

const server = app.listen(0, '127.0.0.1');
// Reused connections never meet their own end.
server.keepAliveTimeout = 600_000;
await once(server, 'listening');

/** What the laboratory asks for. */
const orders = {
  lag,
  /** What happened to one request, for good. */
  report: ({ id }) => ({ ...ledger.close(id), lag: lag() }),
  fault: (fault) => ledger.inflict(fault),
  nextFault: (fault) => ledger.inflictNext(fault),
  /** Between storms: what the pool counts against what was seen of it. */
  async calm() {
    await ledger.quiet();
    return ledger.balance();
  },
  async snapshot() {
    global.gc();
    await wait(50);
    global.gc();
    return {
      resources: count(process.getActiveResourcesInfo()),
      listeners: { ...listenersOf('process', process), ...listenersOf('server', server) },
      connections: await new Promise((resolve) => server.getConnections((_error, open) => resolve(open))),
      heap: process.memoryUsage().heapUsed,
    };
  },
  async finish() {
    await pool.close({ grace: 1000 });
    server.close();
    // Nothing else may keep this process alive.
    setImmediate(() => process.disconnect());
    return { pids: ledger.lastPids, stats: pool.stats(), takenBack: ledger.takenBack, problems: ledger.problems };
  },
};

function count(names) {
  const counts = {};
  for (const name of names) counts[name] = (counts[name] ?? 0) + 1;
  return counts;
}

function listenersOf(owner, emitter) {
  return Object.fromEntries(
    emitter.eventNames().map((name) => [`${owner} ${String(name)}`, emitter.listenerCount(name)]),
  );
}

process.on('message', async ({ order, number, ...rest }) => {
  const answer = await orders[order](rest);
  if (process.connected) process.send({ number, answer });
});
process.send({ port: server.address().port });
