import { seeded } from '../../lab/stats.mjs';

/** What each call is, and what is harmed while they are made: a matter of the seed. */

export const PATIENT_MS = 15_000;
const KINDS = {
  mark: 50,
  again: 4,
  left: 14,
  endless: 8,
  tight: 8,
  fail: 5,
  steps: 4,
  bulk: 4,
  deadly: 3,
};

function weighed(random, weights) {
  let at = random() * Object.values(weights).reduce((sum, weight) => sum + weight);
  return Object.keys(weights).find((name) => {
    at -= weights[name];
    return at < 0;
  });
}

export function callOf(seed, number) {
  const random = seeded((seed * 7919) ^ Math.imul(number + 1, 0x9e3779b1));
  for (let n = 0; n < 3; n++) random();
  const between = (least, most) => Math.floor(least + random() * (most - least + 1));
  const kind = weighed(random, KINDS);
  const spec = { number, kind, ms: between(0, 40), timeout: PATIENT_MS };
  if (kind === 'left') return { ...spec, leaveAfter: between(0, 60) };
  if (kind === 'endless') return { ...spec, timeout: between(60, 300) };
  if (kind === 'tight') return { ...spec, timeout: between(5, 150) };
  if (kind === 'bulk') return { ...spec, bytes: between(1, 200_000) };
  return spec;
}

const FAULTS = {
  'service: kill': 10,
  'service: freeze': 6,
  'service: SIGTERM': 5,
  'service wire: cut': 6,
  'service wire: hole': 5,
  'service wire: delay': 3,
  'caller: kill': 5,
  'caller: freeze': 4,
  'caller wire: cut': 6,
  'caller wire: hole': 4,
  'caller wire: delay': 3,
  'redis: kill': 2,
  'redis: freeze': 2,
};

/** One after the other: `next()` gives what to harm, which one of them, for how long, and when the next comes. */
export function faultsOf(seed) {
  const random = seeded(seed);
  const between = (least, most) => Math.floor(least + random() * (most - least + 1));
  return {
    next() {
      const name = weighed(random, FAULTS);
      const isLong = random() < 0.3;
      return { name, pick: random(), ms: isLong ? between(2500, 6000) : between(50, 1500), pause: between(400, 1800) };
    },
  };
}
