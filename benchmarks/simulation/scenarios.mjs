import { quantile, seeded, sum } from '../lab/stats.mjs';
import { simulate, workOf } from './simulate.mjs';

/**
 * What is asked of a pool: each scenario draws requests `{ task, size, ms, limit }`. Run times vary around what their
 * size tells, by a factor whose logarithm has a standard deviation of 0.2 unless something else is said.
 */

const SECOND = 1000;

const normal = (random) => Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());
const varied = (random, sd = 0.2) => Math.exp(sd * normal(random) - sd ** 2 / 2);
const between = (random, low, high) => low * (high / low) ** random();
const one = (size, ms, limit = SECOND, task = 'task') => ({ task, size, ms, limit });

/** The time grows with the square of the size; one in 50 takes longer than a second. */
function quadratic(random) {
  const size = Math.exp(Math.log(2000) + 0.9 * normal(random));
  return one(size, 5e-6 * size ** 2 * varied(random));
}

/** The same, where `share` is too large on top of that. */
export function withHopeless(share) {
  return (random) => {
    if (random() >= share) return quadratic(random);
    const size = between(random, 15_000, 200_000);
    return one(size, 5e-6 * size ** 2 * varied(random));
  };
}

function linear(random) {
  const size = between(random, 100, 100_000);
  return one(size, 1 + 0.005 * size * varied(random));
}

/** Three functions with limits of their own; one run in a hundred takes ten times as long. */
function mixed(random) {
  const which = random();
  const outlier = random() < 0.01 ? 10 : 1;
  if (which < 0.6) {
    const size = between(random, 1000, 200_000);
    return one(size, outlier * (2 + 2e-4 * size * varied(random, 0.3)), 500, 'parse');
  }
  if (which < 0.85) {
    const size = between(random, 200, 8000);
    return one(size, outlier * 3e-6 * size ** 2 * varied(random, 0.3), 2000, 'diff');
  }
  const size = between(random, 1000, 1e6);
  return one(size, outlier * 1.2e-5 * size * Math.log2(size) * varied(random, 0.3), SECOND, 'sort');
}

/** From the 20th to the 40th second everything takes ten times as long, as on a machine that is busy with others. */
export const tenTimesSlower = (now) => (now >= 20_000 && now < 40_000 ? 10 : 1);

export const SCENARIOS = {
  /** Half take 6 ms, a third 26, the rest 129. */
  feasible(random) {
    const which = random();
    const size = which < 0.5 ? 10 : which < 0.85 ? 40 : 200;
    return one(size, 0.644 * size * varied(random, 0.05));
  },
  linear,
  quadratic,
  /** 12 in a hundred take longer than a second, most of them far longer. */
  hopeless: withHopeless(0.1),
  mixed,
  /** The size tells nothing. */
  bimodal(random) {
    const isLong = random() < 0.2;
    return one(between(random, 100, 10_000), (isLong ? 300 : 10) * varied(random, 0.1));
  },
  /** Neither does it here, and a few take very long. */
  heavyTailed(random) {
    return one(between(random, 100, 10_000), 8 * (1 - random()) ** (-1 / 1.3));
  },
  /** Two in a hundred never end, whatever their size. */
  endless(random) {
    const size = between(random, 200, 6000);
    return one(size, random() < 0.02 ? 1e9 : 0.01 * size * varied(random));
  },
  /** Seven times slower from a size of 20,000 on. */
  cliff(random) {
    const size = between(random, 1000, 100_000);
    return one(size, (5 + size / 1000) * (size > 20_000 ? 7 : 1) * varied(random));
  },
  /** The time stops growing at a size of 10,000: the few that are larger look hopeless, and are not. */
  capped(random) {
    const size = random() < 0.05 ? between(random, 50_000, 1e6) : between(random, 1000, 9000);
    return one(size, 0.02 * Math.min(size, 10_000) * varied(random), 500);
  },
  /** The time doubles with each step of the size: no power of it. */
  exponential(random) {
    const size = 10 + Math.floor(25 * random());
    return one(size, 1e-6 * 2 ** size * varied(random, 0.1));
  },
  /** All limits are short. */
  short(random) {
    const size = between(random, 100, 20_000);
    return one(size, 1 + 0.005 * size * varied(random), 150);
  },
};

/** The requests of a scenario: the same for the same seed. A load of 1 is what the workers can do of what can be done. */
export function arrivalsOf({ draw, load, seed, workers = 1, lasting = 25_000 }) {
  const perMs = (load * workers) / meanWork(draw);
  const random = seeded(seed);
  const arrivals = [];
  for (let at = 0; ; ) {
    at -= Math.log(1 - random()) / perMs;
    if (at > lasting) return arrivals;
    arrivals.push({ at, ...draw(random) });
  }
}

const means = new Map();

/** Of what an idle worker has done in time; what cannot be done is no load to be borne. */
export function meanWork(draw) {
  if (!means.has(draw)) {
    const random = seeded(4711);
    const feasible = Array.from({ length: 40_000 }, () => draw(random)).filter(isPossible);
    means.set(draw, sum(feasible.map((request) => workOf(request))) / feasible.length);
  }
  return means.get(draw);
}

/** An idle worker has it done in time. */
export function isPossible(request) {
  return workOf(request) <= request.limit;
}

/** What came of the calls of a simulation that were made in a span of time. */
export function resultOf(calls, from = 5000, to = Number.POSITIVE_INFINITY) {
  const counted = calls.filter(({ at }) => at >= from && at < to);
  const ended = (ending) => counted.filter((call) => call.ending === ending);
  const ran = (call) => (call.startedAt === undefined ? 0 : call.endedAt - call.startedAt);
  const failed = counted.filter(({ ending }) => ending !== 'completed');
  const untold = failed.map((call) => call.endedAt - call.at);
  return {
    calls: counted.length,
    spanMs: Math.max(...counted.map(({ at }) => at)) - from,
    inTime: ended('completed').length,
    wastedMs: sum(failed.map(ran)),
    /** Until those are told that are not done: the median. */
    toldMs: untold.length > 0 ? quantile(untold, 0.5) : 0,
    refusedForSize: ended('size').length,
    /** Of these, what an idle worker would have done. */
    wronglyForSize: ended('size').filter(isPossible).length,
  };
}

/** One scenario under one policy. */
export function play({ name, load, seed, workers, makePolicy, lasting, slowness }) {
  const arrivals = arrivalsOf({ draw: SCENARIOS[name], load, seed, workers, lasting });
  return simulate({ arrivals, workers, makePolicy, slowness });
}
