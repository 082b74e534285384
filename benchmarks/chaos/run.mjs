import { fork } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, mkdtempSync, openSync, readSync, rmSync, writeFileSync } from 'node:fs';
import http from 'node:http';
import os from 'node:os';
import path from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { perform } from './client.mjs';
import { Faults } from './faults.mjs';
import { judge, labelOf, outlived } from './judge.mjs';
import { watchLag } from './lag.mjs';
import { planOf, WORKERS } from './plan.mjs';

// Over Redis, it is another laboratory.
if (process.argv.includes('--machines')) {
  await import('./machines/run.mjs');
  process.exit();
}

/**
 * A fault laboratory: `npm run chaos -- [--calls 5000] [--seed S] [--only A..B]`. It starts an app, makes calls of all
 * kinds while it harms the app's workers, judges every call, and exits with 1 if any was lost, duplicated, hung or wrong.
 */
const { values } = parseArgs({
  options: {
    calls: { type: 'string', default: '5000' },
    seed: { type: 'string', default: String(Date.now() % 1_000_000) },
    only: { type: 'string' },
    verbose: { type: 'boolean', default: false },
  },
});
const seed = Number(values.seed);
const [first, last] = values.only?.split('..').map(Number) ?? [0, Number(values.calls) - 1];
if (![seed, first, last].every(Number.isSafeInteger) || last < first) {
  console.error('usage: npm run chaos -- [--calls N] [--seed S] [--only A..B]');
  process.exit(2);
}

const IN_FLIGHT = 14;
/** Every so many calls all is let come to rest, and looked at. */
const ROUND = 1000;
/** After its end, for duplicates to arrive and work to stop, before a call is judged. */
const JUDGED_AFTER_MS = 700;
/** Longer than any task that nobody stops. */
const WATCHED_MS = 15_000;
const HEAP_MB = 16;
const SHOWN = 20;

const counts = { lost: 0, duplicated: 0, hung: 0, wrong: 0 };
const outcomes = {};
/** What became of the workers whose calls were given up. */
const reclaims = {};
const faults = new Faults();
const began = Date.now();

console.log(
  `chaos: calls ${first} to ${last}, seed ${seed}, Node ${process.version}, ${os.availableParallelism()} cores`,
);

function breach(verdict, why, details = {}) {
  counts[verdict]++;
  const shown = Object.values(counts).reduce((sum, count) => sum + count);
  if (shown <= SHOWN) console.log(`\n${verdict.toUpperCase()}: ${why}\n${JSON.stringify(details, null, 1)}`);
}

/** What this process measures can be wrong by as much. */
const lag = watchLag();

const directory = mkdtempSync(path.join(os.tmpdir(), 'chaos-'));
const trace = path.join(directory, 'trace');
writeFileSync(trace, '');
// Ended from outside, it takes its app with it.
for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => process.exit(1));
process.on('exit', () => rmSync(directory, { recursive: true, force: true }));

const app = await startApp();
const agent = new http.Agent({ keepAlive: true, maxFreeSockets: 8 });

async function startApp() {
  const child = fork(new URL('./app.mjs', import.meta.url), [trace], {
    execArgv: ['--expose-gc'],
    stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
    env: { ...process.env, NODE_ENV: 'test' },
  });
  let said = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (data) => {
      said = (said + data).slice(-8000);
    });
  }
  process.on('exit', () => child.kill('SIGKILL'));
  const exited = once(child, 'exit');
  const expectedToLive = exited.then(([code, signal]) => {
    if (state.finished) return;
    breach('lost', `the app ended: ${code ?? signal}`, { said });
    report();
  });
  const asked = new Map();
  const state = { finished: false, exited, expectedToLive, said: () => said };
  let orders = 0;
  child.on('message', ({ number, answer }) => {
    asked.get(number)?.(answer);
    asked.delete(number);
  });
  state.order = (order, details) =>
    new Promise((resolve) => {
      asked.set(++orders, resolve);
      child.send({ order, number: orders, ...details });
    });
  const [{ port }] = await once(child, 'message');
  return Object.assign(state, { port });
}

/** Calls that have ended; their tasks must leave no trace any more. */
const stopped = new Map();
const tail = openSync(trace, 'r');
let traced = 0;
let half = '';

function readTraces() {
  const buffer = Buffer.alloc(64 * 1024);
  for (let size = readSync(tail, buffer, 0, buffer.length, traced); size > 0; ) {
    traced += size;
    const lines = (half + buffer.toString('latin1', 0, size)).split('\n');
    half = lines.pop();
    for (const line of lines) {
      const [id, at] = line.split(' ');
      const index = Number(id);
      if (at === 'began') countStart(index, line);
      const call = stopped.get(index);
      if (call === undefined || call.told || !outlived(call.at, Number(at), lag())) continue;
      call.told = true;
      breach('hung', `its task still ran ${at - call.at} ms after the call's end`, {
        ...call.spec,
        replay: replay(index),
      });
    }
    size = readSync(tail, buffer, 0, buffer.length, traced);
  }
  for (const [index, { at }] of stopped) {
    if (at > Date.now() - WATCHED_MS) break;
    stopped.delete(index);
  }
}

/** Calls whose task kills its worker: nobody may try that again. */
const begun = new Map();

function countStart(index, line) {
  const before = begun.get(index);
  if (before !== undefined) {
    breach('duplicated', 'a task that kills its worker was run again', { before, again: line, replay: replay(index) });
  }
  begun.set(index, line);
  if (begun.size > 1000) begun.delete(begun.keys().next().value);
}

const tracing = setInterval(readTraces, 250);

const replay = (index) =>
  `npm run chaos -- --seed ${seed} --only ${Math.max(first, index - 30)}..${Math.min(last, index + 10)}`;

async function inflict({ signal, target, pick, after, next }) {
  await wait(after);
  const pid = await app.order('fault', { signal, target, pick });
  if (pid === undefined) return;
  faults.add(signal, target, pid);
  if (next === undefined) return;
  await wait(next.after);
  if (await app.order('nextFault', { pid, signal: next.signal })) faults.add(next.signal, 'stopped', pid);
}

const pending = new Set();

async function makeCall(index) {
  const spec = planOf(seed, index);
  if (spec.fault !== undefined) track(inflict(spec.fault));
  const seen = await perform(spec, { port: app.port, agent });
  stopped.set(index, { at: seen.leftAt ?? seen.answeredAt ?? seen.endedAt, spec });
  track(judgeLater(spec, seen));
}

function track(work) {
  pending.add(work);
  work.finally(() => pending.delete(work));
}

async function judgeLater(spec, seen) {
  if (seen.leftAt !== undefined) faults.count(`client leaves: ${spec.leave.stage}, ${spec.leave.by}`);
  if (spec.upload.how !== 'whole') faults.count(`upload: ${spec.upload.how}`);
  if (spec.upload.over) faults.count('upload: oversize');
  if (['endless', 'deadly', 'fling', 'bomb', 'imported'].includes(spec.kind)) faults.count(`task: ${spec.task}`);
  await wait(JUDGED_AFTER_MS);
  // A starved app may not have heard of it yet.
  await wait(Math.max(lag(), await app.order('lag', {})));
  const seenByApp = await app.order('report', { id: String(spec.index) });
  for (const { pid } of seenByApp.calls) {
    if ((spec.kind === 'bomb' || spec.kind === 'deadly') && pid !== undefined) faults.add('own death', spec.task, pid);
  }
  await wait(JUDGED_AFTER_MS);
  const label = seen.leftAt !== undefined ? 'client left' : labelOf(spec, seen);
  outcomes[label] = (outcomes[label] ?? 0) + 1;
  for (const { verdict, why } of judge(spec, seen, seenByApp, faults, Math.max(lag(), seenByApp.lag))) {
    breach(verdict, why, { spec, seen, app: seenByApp, replay: replay(spec.index) });
  }
}

/** Strict: with nothing going wrong, every worker serves. */
async function probe(number) {
  const spec = {
    index: `probe${number}`,
    nonce: 'abcd',
    kind: 'pause',
    task: 'pause',
    ms: 150,
    deadline: 5000,
    afterwards: 'close',
  };
  const plan = {
    ...spec,
    way: 'interrupt',
    handler: false,
    client: 'raw',
    upload: { how: 'expect', pieces: 1, bytes: 0 },
  };
  const seen = await perform(plan, { port: app.port, agent });
  const report = await app.order('report', { id: plan.index });
  const label = labelOf(plan, seen);
  if (label !== 'ok') breach('lost', `in calm, a call was answered ${label}`, { seen, report });
}

async function rest() {
  while (pending.size > 0) await Promise.all(pending);
  await app.order('calm', {});
  await Promise.all(Array.from({ length: WORKERS }, (_, number) => probe(number)));
  const { stats, problems } = await app.order('calm', {});
  for (const problem of problems) breach('wrong', problem);
  return stats;
}

/** Resources and listeners as they are at rest, with all workers up and no connection open. */
async function snapshot(like) {
  agent.destroy();
  for (let attempt = 0; ; attempt++) {
    const now = await app.order('snapshot', {});
    const settled = like === undefined ? now.connections === 0 : sameAs(like, now);
    if (settled || attempt === 40) return now;
    await wait(150);
  }
}

const sameAs = (a, b) =>
  ['resources', 'listeners', 'connections'].every((part) => JSON.stringify(a[part]) === JSON.stringify(b[part]));

function compare(before, after) {
  if (!sameAs(before, after))
    breach('wrong', 'resources or listeners are not back to what they were', { before, after });
  const grown = (after.heap - before.heap) / 1024 ** 2;
  if (grown > HEAP_MB) breach('wrong', `the heap grew by ${grown.toFixed(1)} MB`, { before, after });
  console.log(
    `heap of the app: ${(before.heap / 1024 ** 2).toFixed(1)} MB before, ${(after.heap / 1024 ** 2).toFixed(1)} MB after`,
  );
}

async function storm(from, to) {
  let next = from;
  const worker = async () => {
    while (next <= to) await makeCall(next++);
  };
  await Promise.all(Array.from({ length: IN_FLIGHT }, worker));
}

async function finish() {
  const { pids, problems, takenBack } = await app.order('finish', {});
  Object.assign(reclaims, {
    'interrupted, and the process kept': takenBack.interrupted,
    'killed where an interrupt was not enough': takenBack.killedInstead,
    'killed, as modules are': takenBack.killed,
  });
  app.finished = true;
  for (const problem of problems) breach('wrong', problem);
  const [code] = await Promise.race([app.exited, wait(5000, ['no exit'], { ref: false })]);
  if (code !== 0) breach('hung', `the app's end: ${code}`, { said: app.said() });
  const alive = pids.filter((pid) => {
    try {
      return process.kill(pid, 0);
    } catch {
      return false;
    }
  });
  if (alive.length > 0) breach('hung', `workers outlived the app: ${alive}`);
}

function report() {
  const table = (title, rows) => {
    console.log(`\n${title}`);
    for (const [name, count] of Object.entries(rows).sort(([a], [b]) => (a < b ? -1 : 1))) {
      console.log(`  ${String(count).padStart(7)}  ${name}`);
    }
  };
  table('faults injected', faults.counts);
  table('outcomes', outcomes);
  table('workers taken back', reclaims);
  const { lost, duplicated, hung, wrong } = counts;
  console.log(`\n${last - first + 1} calls in ${((Date.now() - began) / 1000).toFixed(0)} s, seed ${seed}`);
  console.log(`lost / duplicated / hung / wrong: ${lost} / ${duplicated} / ${hung} / ${wrong}`);
  const failed = lost + duplicated + hung + wrong > 0;
  if (failed) console.log(`again: npm run chaos -- --seed ${seed} --calls ${values.calls}`);
  process.exit(failed ? 1 : 0);
}

await rest();
const before = await snapshot();
for (let from = first; from <= last; from += ROUND) {
  const to = Math.min(last, from + ROUND - 1);
  await storm(from, to);
  const stats = await rest();
  const seconds = ((Date.now() - began) / 1000).toFixed(0);
  if (to < last)
    console.log(`${to + 1 - first} calls, ${seconds} s, ${JSON.stringify(counts)}, ${stats.completed} completed`);
}
await wait(3000);
readTraces();
compare(before, await snapshot(before));
clearInterval(tracing);
closeSync(tail);
await finish();
report();
