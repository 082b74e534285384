import { createRequire } from 'node:module';

const { Admission, backlog } = createRequire(import.meta.url)('../../dist/pool/admission.js');

const CALLS = 20_000;
const ROUNDS = 7;

/** Microseconds of what admission does for a call, in the best of some rounds. */
export function costs() {
  const admission = new Admission('task', 'enforce', 1000);
  for (let n = 0; n < 500; n++) admission.times.add(100 + n, 10 + n / 10, true, n);
  const callOf = (n) => {
    const [size, madeAt, endsAt] = [100 + (n % 1000), 1000 + n, 2000 + n];
    return { size, madeAt, endsAt, deadlineAt: endsAt, startedAt: undefined, expectedMs: 10, verdict: undefined };
  };
  const waiting = (count) => new Set(Array.from({ length: count }, (_, n) => callOf(n)));
  const [few, many] = [waiting(50), waiting(1000)];
  return {
    'to decide': best((n) => admission.refusal(callOf(n), n % 900, 1000 + n)),
    'to decide again, at its turn': best((n) => admission.refusalAtTurn(callOf(n), 0, 1500 + n)),
    'to learn from a run': best((n) => admission.times.add(100 + (n % 1000), 10 + (n % 7), true, 1000 + n)),
    'to add up 50 that wait': best(() => backlog(few, 3000, 1, 1500)),
    'to add up 1,000 that wait': best(() => backlog(many, 3000, 1, 1500)),
  };
}

function best(action) {
  const rounds = Array.from({ length: ROUNDS }, () => {
    const began = performance.now();
    for (let n = 0; n < CALLS; n++) action(n);
    return ((performance.now() - began) * 1000) / CALLS;
  });
  return Math.min(...rounds);
}
