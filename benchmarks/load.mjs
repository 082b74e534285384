import { mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { availableParallelism, tmpdir } from 'node:os';
import path from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';
import { start } from './lab/child.mjs';
import { sendOpenLoop, steady } from './lab/open-loop.mjs';
import { figure, median, quantile, seeded, spread, sum, summary } from './lab/stats.mjs';
import { costs } from './simulation/cost.mjs';
import { oracle } from './simulation/policies.mjs';
import { arrivalsOf, isPossible, meanWork, SCENARIOS, withHopeless } from './simulation/scenarios.mjs';
import { simulate } from './simulation/simulate.mjs';

/** In the order of their colours; `everywhere` those that are tried with every mix. */
const VARIANTS = [
  { variant: 'ours-with-size', name: 'timeout() + offload({ size })', ours: true, everywhere: true },
  { variant: 'ours', name: 'timeout() + offload()', everywhere: true },
  { variant: 'blocking', name: 'blocking Express' },
  { variant: 'connect-timeout', name: 'connect-timeout' },
  { variant: 'workerpool', name: 'connect-timeout + workerpool', everywhere: true },
  { variant: 'piscina', name: 'piscina + AbortController', everywhere: true },
].map((each, colour) => ({ ...each, colour }));
const ORACLE = { name: 'oracle (simulated)', colour: VARIANTS.length };

/** As they were simulated: see simulation/scenarios.mjs. */
const MIXES = [
  {
    name: 'all can be done',
    what: 'half take 6 ms of CPU, 35% 26, 15% 129; the limit is a second',
    draw: SCENARIOS.feasible,
    variants: VARIANTS,
  },
  {
    name: '8% hopeless',
    what: 'the time grows with the square of the size; 8% take longer than their limit, a second, many of them far longer',
    draw: withHopeless(0.06),
    variants: VARIANTS.filter(({ everywhere }) => everywhere),
  },
  {
    name: 'three functions',
    what: 'their times grow by n, n² and n log n, their limits are 0.5, 2 and 1 s, 1% take ten times as long',
    draw: SCENARIOS.mixed,
    variants: VARIANTS.filter(({ everywhere }) => everywhere),
  },
];
const PINGS_PER_SECOND = 50;
/** The last answers come this long after the last request. */
const LONGEST_LIMIT = 2000;

/** What does an app with CPU-heavy routes still deliver when more is asked of it than it can do? */
export async function measure({ quick, progress }) {
  // Quick is the same in a fraction of the time: arrivals, run times and limits.
  const plan = quick ? { scale: 0.3, ramp: 100, window: 400 } : { scale: 1, ramp: 1000, window: 5000 };
  const loads = quick ? [1] : [0.25, 0.5, 1, 2, 4];
  const passes = quick ? 1 : 3;
  const workers = Math.max(1, availableParallelism() - 1);
  const directory = mkdtempSync(path.join(tmpdir(), 'bench-'));
  process.once('exit', () => rmSync(directory, { recursive: true }));
  const cpuPerUnit = await calibrate(directory, quick);
  const results = [];
  for (const mix of MIXES) {
    const lines = mix.variants.map((variant) => ({ ...variant, points: loads.map(() => []) }));
    const best = { ...ORACLE, points: loads.map(() => []) };
    for (let pass = 0; pass < passes; pass++) {
      for (const [l, load] of loads.entries()) {
        const seed = pass * 100 + l;
        const works = worksOf({ mix, load, seed, workers, cpuPerUnit, ...plan });
        best.points[l].push(foresee({ works, workers, ...plan }));
        for (const { variant, name, points } of lines) {
          progress(`${mix.name}: ${name} at ${load}x, pass ${pass + 1} of ${passes}`);
          const tally = path.join(directory, `${variant}-${results.length}-${seed}`);
          points[l].push(await measurePoint({ variant, workers, tally, works, mix, cpuPerUnit, ...plan }));
        }
      }
    }
    results.push({ ...mix, lines, best, sent: loads.map((load) => load * capacityOf(mix, workers, plan.scale)) });
  }
  return report({ loads, results, workers, plan, passes });
}

function capacityOf({ draw }, workers, scale) {
  return (workers * 1000) / (meanWork(draw) * scale);
}

/** What is asked of an app, the same for all: what it takes is known, and where it is to be asked for. */
function worksOf({ mix, load, seed, workers, cpuPerUnit, scale, ramp, window }) {
  const arrivals = arrivalsOf({ draw: mix.draw, load, seed, workers, lasting: (ramp + window) / scale });
  return arrivals.map(({ at, ...request }) => ({ at: at * scale, ...workOf(request, cpuPerUnit, scale) }));
}

function workOf({ task, size, ms, limit }, cpuPerUnit, scale) {
  const units = Math.max(1, Math.round((ms * scale) / cpuPerUnit));
  const query = new URLSearchParams({ task, size, units, limit: limit * scale });
  return { task, size, units, ms: units * cpuPerUnit, limit: limit * scale, path: `/work?${query}` };
}

/** What one who knows every run time would have served. */
function foresee({ works, workers, ramp, window }) {
  const calls = simulate({ arrivals: works, workers, makePolicy: oracle });
  const delivered = calls.filter(({ at, ending }) => ending === 'completed' && at >= ramp);
  return { inTime: (delivered.length * 1000) / window };
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

async function startApp({ variant, workers = 1, tally }) {
  writeFileSync(tally, '');
  return start('load.mjs', [variant, workers].map(String), { env: { BENCH_TALLY: tally } });
}

/** A fresh app each time: what one load leaves behind in a queue is not the next one's burden. */
async function measurePoint({ variant, workers, tally, works, mix, cpuPerUnit, scale, ramp, window }) {
  const server = await startApp({ variant, workers, tally });
  try {
    const random = seeded(1);
    const possible = () => {
      for (;;) {
        const request = mix.draw(random);
        if (isPossible(request)) return workOf(request, cpuPerUnit, scale);
      }
    };
    await sendOpenLoop(server.port, steady({ perSecond: 20, lasting: 1000 * scale, request: possible }), 5000);

    const lasting = ramp + window;
    const patience = LONGEST_LIMIT * scale;
    const pings = steady({
      perSecond: PINGS_PER_SECOND,
      lasting,
      request: () => ({ path: '/ping', limit: 1000 * scale }),
    });
    const arrivals = [...works, ...pings].sort((a, b) => a.at - b.at);
    const before = statSync(tally).size;
    const [answers] = await Promise.all([
      sendOpenLoop(server.port, arrivals, patience),
      wait(lasting + patience), // Long enough for what was given up to be seen running on.
    ]);
    const done = statSync(tally).size - before;

    const asked = answers.filter(({ units }) => units !== undefined);
    const delivered = asked.filter(({ ok }) => ok);
    const counted = asked.filter(({ at }) => at >= ramp);
    const wasted = Math.max(0, done - sum(delivered.map(({ units }) => units)));
    return {
      inTime: (counted.filter(({ ok }) => ok).length * 1000) / window,
      wasted: (wasted * cpuPerUnit) / (lasting + patience),
      told: counted.filter((answer) => !answer.ok && !isPossible(answer)).map(({ latency }) => latency),
      pings: answers.filter(({ path: asked, at }) => asked === '/ping' && at >= ramp).map(pingOf),
    };
  } finally {
    await server.stop();
  }
}

/** One without an answer counts as long as its client has waited. */
function pingOf({ ok, latency, limit }) {
  return ok ? latency : limit;
}

function report({ loads, results, workers, plan, passes }) {
  const pooled = (pick) => (runs) => runs.flatMap(pick);
  const [pings, told] = [pooled((run) => run.pings), pooled((run) => run.told)];
  const exactly = (value) => ({ value, low: value, high: value });
  const at = (values, share) => exactly(values.length > 0 ? quantile(values, share) : Number.NaN);
  const figures = {
    inTime: (runs) => summary(runs.map(({ inTime }) => inTime)),
    wasted: (runs) => summary(runs.map(({ wasted }) => wasted)),
    told: (runs) => at(told(runs), 0.5),
    p50: (runs) => at(pings(runs), 0.5),
    p99: (runs) => at(pings(runs), 0.99),
  };
  const x = loads.map((load) => `${load}x`);
  const table = (heading, lines, cell, first = []) => ({
    heading,
    columns: ['', ...x],
    rows: [...first, ...lines.map(({ name, points }) => [name, ...points.map(cell)])],
  });
  const panel = (title, lines, pick, axis = {}) => ({
    title,
    x,
    series: lines.map(({ name, ours, colour, points }) => ({ name, ours, colour, points: points.map(pick) })),
    ...axis,
  });
  const milliseconds = { log: true, least: 1, most: 1000 * plan.scale };
  const [feasible, hopeless] = results;

  return {
    title: 'load: an app with CPU-heavy routes, asked for more than it can do',
    how: `Requests arrive at random moments, whatever became of the earlier ones; their latency counts from then, and
      their clients hang up when the limit of the app has passed. 1x is what ${workers} ${workers === 1 ? 'worker' : 'workers'}
      can do of what can be done. ${results.map(({ name, what, sent }) => `Mix "${name}": ${what}; 1x is ${figure(sent[loads.indexOf(1)])} requests/s.`).join(' ')}
      Each app runs in a process of its own, fresh for each point, and has had ${20 * plan.scale} requests of the mix before; ${passes} passes
      of ${plan.window / 1000} s after ${plan.ramp / 1000} s of ramp, the same arrivals for all, taking turns. Medians, with the
      middle half in brackets. The oracle knows every run time beforehand and drops as few requests as can be; it is
      simulated on the same arrivals. Wasted is the work done for requests that got no answer in time; 1 is one core doing
      nothing else. /ping is asked ${PINGS_PER_SECOND} times a second beside it; one without an answer counts as
      ${1000 * plan.scale} ms. Queues are as long as each package has them by default.`,
    packages: ['express', 'connect-timeout', 'workerpool', 'piscina'],
    tables: [
      ...results.flatMap(({ name, lines, best, sent }) => [
        table(`Responses in time, per second: ${name}`, [...lines, best], (runs) => spread(figures.inTime(runs)), [
          ['sent', ...sent.map(figure)],
        ]),
        table(`Wasted CPU seconds, per second: ${name}`, lines, (runs) => spread(figures.wasted(runs))),
      ]),
      table('Until hopeless requests are told, ms: the median', hopeless.lines, (runs) =>
        figure(figures.told(runs).value),
      ),
      {
        heading: 'What admission costs a call, µs',
        columns: ['', 'µs'],
        rows: Object.entries(costs()).map(([what, us]) => [what, figure(us)]),
      },
      table('/ping beside it, ms: p50 / p99', feasible.lines, (runs) =>
        [figures.p50, figures.p99].map((pick) => figure(pick(runs).value)).join(' / '),
      ),
    ],
    panels: [
      ...results.flatMap(({ name, lines, best }) => [
        panel(`In time, per second: ${name} (more is better)`, [...lines, best], figures.inTime),
        panel(`Wasted CPU seconds, per second (less is better)`, lines, figures.wasted),
      ]),
      panel('/ping p99, ms: all can be done (less is better)', feasible.lines, figures.p99, milliseconds),
    ],
  };
}
