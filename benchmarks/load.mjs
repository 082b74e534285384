import { mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { availableParallelism, tmpdir } from 'node:os';
import path from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';
import { start } from './lab/child.mjs';
import { poisson, sendOpenLoop, steady } from './lab/open-loop.mjs';
import { figure, median, quantile, spread, sum, summary } from './lab/stats.mjs';

const VARIANTS = [
  { variant: 'ours', name: 'timeout() + offload()', ours: true },
  { variant: 'blocking', name: 'blocking Express' },
  { variant: 'connect-timeout', name: 'connect-timeout' },
  { variant: 'workerpool', name: 'connect-timeout + workerpool' },
  { variant: 'piscina', name: 'piscina + AbortController' },
];
/** Most requests are small, a few are large, and these make most of the work. */
const SIZES = [
  { share: 0.5, upTo: 0.5, units: 10 },
  { share: 0.35, upTo: 0.85, units: 40 },
  { share: 0.15, upTo: 1, units: 200 },
];
const MEAN_UNITS = sum(SIZES.map(({ share, units }) => share * units));
const PINGS_PER_SECOND = 50;

/** What does an app with one CPU-heavy route still deliver when more is asked of it than it can do? */
export async function measure({ quick, progress }) {
  const deadline = quick ? 300 : 1000;
  const plan = { deadline, ramp: quick ? 100 : 1000, window: quick ? 400 : 5000 };
  const loads = quick ? [0.5, 2] : [0.25, 0.5, 1, 2, 4];
  const passes = quick ? 1 : 3;
  const workers = Math.max(1, availableParallelism() - 1);
  const directory = mkdtempSync(path.join(tmpdir(), 'bench-'));
  process.once('exit', () => rmSync(directory, { recursive: true }));
  const cpuPerUnit = await calibrate(directory, quick);
  const capacity = (workers * 1000) / (cpuPerUnit * MEAN_UNITS);
  const points = VARIANTS.map(() => loads.map(() => []));
  for (let pass = 0; pass < passes; pass++) {
    for (const [l, load] of loads.entries()) {
      for (const [v, { variant, name }] of VARIANTS.entries()) {
        progress(`${name} at ${load}x, pass ${pass + 1} of ${passes}`);
        const seed = pass * 100 + l;
        const tally = path.join(directory, `${variant}-${seed}`);
        points[v][l].push(
          await measurePoint({ variant, workers, tally, seed, perSecond: load * capacity, cpuPerUnit, ...plan }),
        );
      }
    }
  }
  return report({ loads, points, workers, capacity, cpuPerUnit, plan, passes });
}

/** The CPU time of one unit of work, in ms. */
async function calibrate(directory, quick) {
  const server = await startApp({ variant: 'blocking', tally: path.join(directory, 'calibration') });
  try {
    const samples = [];
    for (let n = 0; n < 9; n++) samples.push(await server.ask('cpuPerUnit', quick ? 20 : 200));
    return median(samples);
  } finally {
    await server.stop();
  }
}

async function startApp({ variant, workers = 1, deadline = 1000, tally }) {
  writeFileSync(tally, '');
  return start('load.mjs', [variant, workers, deadline].map(String), { env: { BENCH_TALLY: tally } });
}

/** A fresh app each time: what one load leaves behind in a queue is not the next one's burden. */
async function measurePoint({ variant, workers, tally, seed, perSecond, cpuPerUnit, deadline, ramp, window }) {
  const server = await startApp({ variant, workers, deadline, tally });
  try {
    const warming = steady({ perSecond: 20, lasting: 500, request: () => ({ path: '/work?units=20' }) });
    await sendOpenLoop(server.port, warming, 5000);

    const lasting = ramp + window;
    const works = poisson({ perSecond, lasting, seed, request: sized });
    const pings = steady({ perSecond: PINGS_PER_SECOND, lasting, request: () => ({ path: '/ping' }) });
    const arrivals = [...works, ...pings].sort((a, b) => a.at - b.at);
    const before = statSync(tally).size;
    const [answers] = await Promise.all([
      sendOpenLoop(server.port, arrivals, deadline),
      wait(lasting + deadline), // Long enough for what was given up to be seen running on.
    ]);
    const done = statSync(tally).size - before;

    const delivered = answers.filter(({ ok, units }) => ok && units !== undefined);
    const wasted = Math.max(0, done - sum(delivered.map(({ units }) => units)));
    return {
      inTime: (delivered.filter(({ at }) => at >= ramp).length * 1000) / window,
      wasted: (wasted * cpuPerUnit) / (lasting + deadline),
      pings: answers
        .filter(({ path: asked, at }) => asked === '/ping' && at >= ramp)
        .map(({ ok, ms }) => (ok ? ms : deadline)),
    };
  } finally {
    await server.stop();
  }
}

function sized(random) {
  const at = random();
  const { units } = SIZES.find(({ upTo }) => at < upTo);
  return { units, path: `/work?units=${units}` };
}

function report({ loads, points, workers, capacity, cpuPerUnit, plan, passes }) {
  const pooled = (runs) => runs.flatMap(({ pings }) => pings);
  const exactly = (value) => ({ value, low: value, high: value });
  const figures = {
    inTime: (runs) => summary(runs.map(({ inTime }) => inTime)),
    wasted: (runs) => summary(runs.map(({ wasted }) => wasted)),
    p50: (runs) => exactly(quantile(pooled(runs), 0.5)),
    p99: (runs) => exactly(quantile(pooled(runs), 0.99)),
  };
  const x = loads.map((load) => `${load}x`);
  const table = (heading, cell, first = []) => ({
    heading,
    columns: ['', ...x],
    rows: [...first, ...VARIANTS.map(({ name }, v) => [name, ...points[v].map(cell)])],
  });
  const panel = (title, pick, axis = {}) => ({
    title,
    x,
    series: VARIANTS.map(({ name, ours }, v) => ({ name, ours, points: points[v].map(pick) })),
    ...axis,
  });
  const milliseconds = { log: true, least: 1, most: plan.deadline };

  return {
    title: 'load: an app with one CPU-heavy route, asked for more than it can do',
    how: `Requests arrive at random moments, whatever became of the earlier ones; their latency counts from then, and
      their clients hang up after ${plan.deadline} ms, the deadline of the app. ${SIZES.map(
        ({ share, units }) => `${share * 100}% take ${figure(units * cpuPerUnit)} ms of CPU`,
      ).join(', ')}; 1x is what ${workers} ${workers === 1 ? 'worker' : 'workers'} can do,
      ${figure(capacity)} requests/s. Each app runs in a process of its own, fresh for each point; ${passes} passes of
      ${plan.window / 1000} s after ${plan.ramp / 1000} s of ramp, the same arrivals for all, taking turns. Medians, with the
      middle half in brackets. Wasted is the work done for requests that got no answer in time; 1 is one core doing nothing
      else. /ping is asked ${PINGS_PER_SECOND} times a second beside it; one without an answer counts as ${plan.deadline} ms.
      Queues are as long as each package has them by default.`,
    packages: ['express', 'connect-timeout', 'workerpool', 'piscina'],
    tables: [
      table('Responses in time, per second', (runs) => spread(figures.inTime(runs)), [
        ['sent', ...loads.map((load) => figure(load * capacity))],
      ]),
      table('Wasted CPU seconds, per second', (runs) => spread(figures.wasted(runs))),
      table('/ping beside it, ms: p50 / p99', (runs) =>
        [figures.p50, figures.p99].map((pick) => figure(pick(runs).value)).join(' / '),
      ),
    ],
    panels: [
      panel('Responses in time, per second (more is better)', figures.inTime),
      panel('Wasted CPU seconds, per second (less is better)', figures.wasted),
      panel('/ping p50, ms (less is better)', figures.p50, milliseconds),
      panel('/ping p99, ms (less is better)', figures.p99, milliseconds),
    ],
  };
}
