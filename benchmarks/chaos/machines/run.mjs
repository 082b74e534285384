import { once } from 'node:events';
import { closeSync, mkdtempSync, openSync, readSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { watchLag } from '../lag.mjs';
import { judge } from './judge.mjs';
import { callOf, faultsOf, PATIENT_MS } from './plan.mjs';
import { end, RedisServer, start, Wire } from './processes.mjs';

/**
 * The fault laboratory over Redis: `npm run chaos -- --machines [--calls 20000] [--seed S] [--persistent]`. Web
 * processes call services on other "machines" (processes here) while services, web processes, Redis and the wires
 * between them are killed, frozen, cut, slowed and made to swallow what goes through them. Every call is judged by how
 * it ended and by the traces that its task has left. Exits with 1 if any was lost, duplicated, hung or wrong, or began
 * after its caller was told.
 */
const { values } = parseArgs({
  options: {
    machines: { type: 'boolean' },
    calls: { type: 'string', default: '20000' },
    seed: { type: 'string', default: String(Date.now() % 1_000_000) },
    persistent: { type: 'boolean', default: false },
  },
});
const seed = Number(values.seed);
const total = Number(values.calls);

const SERVICES = 3;
const CALLERS = 3;
const IN_FLIGHT = 12;
/** Of the tests and of all that waits behind them. */
const REST_MS = 12_000;
const SHOWN = 15;
const BYTES = 2_000_000;

const counts = { lost: 0, duplicated: 0, hung: 0, wrong: 0, afterwards: 0 };
const outcomes = {};
const faults = {};
/** When what was harmed: `caller` where only that one could not be heard. */
const harm = [];
const calls = new Map();
const began = Date.now();
const lag = watchLag();
/** How late everything on this machine was, second by second. */
const lags = [];
setInterval(() => lags.push({ at: Date.now(), ms: lag() }), 250).unref();
const lagAround = (from, to) =>
  Math.max(0, ...lags.filter(({ at }) => at > from - 1000 && at < to + 2000).map(({ ms }) => ms));
let next = 0;
let isOver = false;

const directory = mkdtempSync(path.join(os.tmpdir(), 'chaos-machines-'));
const trace = path.join(directory, 'trace');
writeFileSync(trace, '');
for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => process.exit(1));
// After a signal, Redis may still be writing.
process.on('exit', () => rmSync(directory, { recursive: true, force: true, maxRetries: 10 }));

const redis = new RedisServer(path.join(directory, 'redis'), values.persistent);
await redis.start();
console.log(
  `chaos over Redis: ${total} calls, seed ${seed}, Redis ${values.persistent ? 'keeps what it is told' : 'forgets all when killed'}, Node ${process.version}`,
);

function breach(verdict, why, details) {
  counts[verdict]++;
  const shown = Object.values(counts).reduce((sum, count) => sum + count);
  if (shown <= SHOWN) console.log(`\n${verdict.toUpperCase()}: ${why}\n${JSON.stringify(details)}`);
}

// The machines.

async function startService(place) {
  const reclaim = place === 0 ? 'kill' : 'interrupt';
  const options = { connection: place.wire.url, queue: 'chaos', workers: 2, reclaim };
  place.child = await start('./service.mjs', options);
}

async function startCaller(place) {
  const child = await start('./caller.mjs', { connection: place.wire.url, queue: 'chaos', trace });
  place.child = child;
  place.caller = { diedAt: undefined };
  place.inFlight = new Set();
  const { caller, inFlight } = place;
  child.on('message', ({ number, stats, ...ended }) => {
    if (stats !== undefined) return;
    const call = calls.get(number);
    inFlight.delete(number);
    Object.assign(call, ended, { answers: (call.answers ?? 0) + 1 });
    outcomes[ended.outcome] = (outcomes[ended.outcome] ?? 0) + 1;
    // As clients do that are told to come back later: else a Redis that is away would use up all calls.
    const pause = ended.outcome === 'ERR_UNBLOCK_UNREACHABLE' ? 300 : 0;
    setTimeout(() => place.caller === caller && feed(place), pause);
  });
  feed(place);
}

/** Gives a caller new calls, as many as it may have at once. */
function feed(place) {
  while (!isOver && place.inFlight.size < IN_FLIGHT && next < total) {
    const spec = callOf(seed, next++);
    calls.set(spec.number, { spec, caller: place.caller, madeAt: Date.now() });
    place.inFlight.add(spec.number);
    place.child.send(spec, () => {});
  }
}

const places = async (count) =>
  Promise.all(
    Array.from({ length: count }, async (_, number) => ({ number, wire: await Wire.to(redis.port), isHarmed: false })),
  );
const services = await places(SERVICES);
const callers = await places(CALLERS);
await Promise.all(services.map(startService));

const before = await state();
await Promise.all(callers.map(startCaller));

// The faults.

const actions = {
  async kill({ child }) {
    await end(child);
  },
  async freeze({ child }, ms) {
    child.kill('SIGSTOP');
    await wait(ms);
    child.kill('SIGCONT');
  },
  async SIGTERM({ child }) {
    await end(child, 'SIGTERM');
  },
  async cut({ wire }) {
    wire.cut();
  },
  async hole({ wire }, ms) {
    wire.isHole = true;
    await wait(ms);
    wire.isHole = false;
    wire.cut();
  },
  async delay({ wire }, ms) {
    wire.delayMs = 5 + (ms % 100);
    await wait(ms);
    wire.delayMs = 0;
  },
};

async function inflict({ name, pick, ms }) {
  const [target, action] = name.split(': ');
  const among = { service: services, 'service wire': services, caller: callers, 'caller wire': callers }[target];
  const place = among?.[Math.floor(pick * among.length)];
  // One thing at a time for each: what is frozen cannot be told from what is cut.
  if (place?.isHarmed || redis.isHarmed) return;
  const window = { from: Date.now(), to: Number.POSITIVE_INFINITY };
  if (target.startsWith('caller')) window.caller = place.caller;
  harm.push(window);
  faults[name] = (faults[name] ?? 0) + 1;
  const victim = place ?? redis;
  victim.isHarmed = true;
  if (place === undefined) await harmRedis(action, ms);
  else await actions[action](place, ms);
  if (target === 'service' && action !== 'freeze') await startService(place);
  if (target === 'caller' && action === 'kill') {
    place.caller.diedAt = Date.now();
    await startCaller(place);
  }
  victim.isHarmed = false;
  window.to = Date.now();
}

async function harmRedis(action, ms) {
  if (action === 'freeze') {
    redis.signal('SIGSTOP');
    await wait(ms);
    redis.signal('SIGCONT');
    return;
  }
  await redis.kill();
  await wait(ms % 1000);
  await redis.start();
}

const storm = faultsOf(seed);
const pending = new Set();
const told = setInterval(() => {
  const seconds = ((Date.now() - began) / 1000).toFixed(0);
  console.log(`${next} calls, ${seconds} s, ${Object.values(faults).reduce((sum, one) => sum + one, 0)} faults`);
}, 20_000);
while (next < total) {
  const fault = storm.next();
  const work = inflict(fault).catch((error) => breach('wrong', `the laboratory: ${error.stack}`, fault));
  pending.add(work);
  work.finally(() => pending.delete(work));
  await wait(fault.pause);
}
await Promise.all(pending);
clearInterval(told);
await settle();

async function settle() {
  for (const until = Date.now() + PATIENT_MS + 5000; Date.now() < until; await wait(50)) {
    if (callers.every(({ inFlight }) => inFlight.size === 0)) return;
  }
}

// Calm: every call is answered.
isOver = true;
await wait(REST_MS);
for (let n = 0; n < 40; n++) {
  const place = callers[n % CALLERS];
  const spec = { number: total + n, kind: 'mark', ms: 5, timeout: PATIENT_MS };
  const call = { spec, caller: place.caller, madeAt: Date.now() };
  calls.set(spec.number, call);
  place.child.send(spec);
  while (call.endedAt === undefined && Date.now() < call.madeAt + PATIENT_MS + 2000) await wait(5);
  if (call.outcome !== 'ok') breach('lost', `in calm, a call ended in ${call.outcome}`, spec);
}
await wait(1000); // They are as of the last look.
for (const { child } of callers) {
  child.send('stats');
  const [{ stats }] = await once(child, 'message');
  if (stats.workers !== 2 * SERVICES || stats.queued > 0) breach('wrong', 'in calm, its stats are not', stats);
}

// The verdicts.

const traces = readTraces();
for (const call of calls.values()) {
  const seen = traces.get(call.spec.number) ?? { begins: [], ends: [], lastAt: 0 };
  for (const { verdict, why } of judge(call, seen, harm, lagAround(call.madeAt, call.endedAt ?? call.madeAt))) {
    const near = harm.filter(
      ({ from, to }) => from < (call.endedAt ?? call.madeAt) + 10_000 && to > call.madeAt - 10_000,
    );
    const since = (at) => at - call.madeAt;
    breach(verdict, why, {
      ...call.spec,
      outcome: call.outcome,
      ended: since(call.endedAt ?? call.caller.diedAt),
      begins: seen.begins.map(since),
      ends: seen.ends.map(since),
      last: since(seen.lastAt),
      harm: near.map(({ from, to, caller }) => [
        since(from),
        since(to),
        caller === undefined ? 'all' : caller === call.caller ? 'own' : 'other',
      ]),
    });
  }
}

function readTraces() {
  const seen = new Map();
  const file = openSync(trace, 'r');
  const buffer = Buffer.alloc(2 ** 20);
  let half = '';
  for (let size = readSync(file, buffer); size > 0; size = readSync(file, buffer)) {
    const lines = (half + buffer.toString('latin1', 0, size)).split('\n');
    half = lines.pop();
    for (const line of lines) {
      const [number, what, at] = line.split(' ');
      const of = seen.get(Number(number)) ?? { begins: [], ends: [], lastAt: 0 };
      seen.set(Number(number), of);
      if (what === 'begin') of.begins.push(Number(at));
      if (what === 'end') of.ends.push(Number(at));
      of.lastAt = Math.max(of.lastAt, Number(at));
    }
  }
  closeSync(file);
  return seen;
}

// What is left in Redis.

async function state() {
  return redis.ask(async (client) => ({
    memory: Number(/used_memory:(\d+)/.exec(await client.info('memory'))[1]),
    keys: (await client.keys('*')).sort(),
  }));
}

for (const { child } of callers) {
  const gone = once(child, 'exit');
  child.send('close');
  await Promise.race([gone, wait(5000)]);
}
await wait(6000); // As long as the streams of killed callers live.
const after = await state();
const own = (keys) => keys.filter((key) => !key.includes(':stalled') && !/:(id|pc|meta|events|marker)$/.test(key));
if (own(after.keys).length > own(before.keys).length) breach('wrong', 'keys are left in Redis', after.keys);
if (after.memory - before.memory > BYTES) breach('wrong', 'memory of Redis is not back', { before, after });
await Promise.all([...services, ...callers].map(({ child, wire }) => end(child).then(() => wire.close())));
await redis.kill();

const table = (title, rows) => {
  console.log(`\n${title}`);
  for (const [name, count] of Object.entries(rows).sort(([a], [b]) => (a < b ? -1 : 1))) {
    console.log(`  ${String(count).padStart(7)}  ${name}`);
  }
};
table('faults', faults);
table('outcomes', outcomes);
const killed = [...calls.values()].filter(({ outcome }) => outcome === undefined).length;
console.log(`  ${String(killed).padStart(7)}  died with their caller`);
console.log(
  `\nRedis: ${before.keys.length} keys before, ${after.keys.length} after; ${before.memory} bytes, ${after.memory}`,
);
console.log(`${total} calls in ${((Date.now() - began) / 1000).toFixed(0)} s, seed ${seed}`);
const { lost, duplicated, hung, wrong, afterwards } = counts;
console.log(
  `lost / duplicated / hung / wrong / begun after told: ${lost} / ${duplicated} / ${hung} / ${wrong} / ${afterwards}`,
);
const failed = lost + duplicated + hung + wrong + afterwards > 0;
process.exit(failed ? 1 : 0);
