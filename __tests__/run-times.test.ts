import fc from 'fast-check';
import { RunTimes } from '../lib/pool/run-times';

const size = fc.oneof(fc.constant(0), fc.double({ min: 0, max: 1e9, noNaN: true }), fc.integer({ min: 0, max: 1e9 }));
/** From a hundredth of a millisecond to an hour, all magnitudes alike. */
const ms = fc.double({ min: Math.log(0.01), max: Math.log(3_600_000), noNaN: true }).map(Math.exp);
const run = fc.record({
  size,
  ms,
  isDone: fc.boolean(),
  after: fc.oneof(fc.constant(0), fc.double({ min: 0, max: 1e7, noNaN: true })),
});
const runs = fc.array(run, { maxLength: 150 });

interface Run {
  size: number;
  ms: number;
  isDone: boolean;
  /** Since the one before. */
  after: number;
}

function learn(all: Run[]) {
  const times = new RunTimes();
  let now = 1000;
  for (const { size, ms, isDone, after } of all) {
    now += after;
    times.add(size, ms, isDone, now);
  }
  return { times, now };
}

/** A function whose time grows with the square of the size, and never varies. */
function square({ count = 40, now = 0, factor = 1e-6 } = {}) {
  const times = new RunTimes();
  for (let n = 1; n <= count; n++) times.add(200 * n, factor * (200 * n) ** 2, true, now);
  return times;
}

describe('RunTimes', () => {
  it('predicts a number from 0 on, in order, for any size after any runs', () => {
    fc.assert(
      fc.property(runs, size, (all, asked) => {
        const { times, now } = learn(all);
        const { isSure, least, median, most } = times.predict(asked, now);
        expect([least, median, most].some(Number.isNaN)).toBe(false);
        expect([0 <= least, least <= median, median <= most]).toEqual([true, true, true]);
        expect(times.headroom(asked, now)).toBeGreaterThanOrEqual(0);
        expect(times.headroom(undefined, now)).toBeGreaterThanOrEqual(0);
        if (!isSure) expect([least, most]).toEqual([0, Number.POSITIVE_INFINITY]);
        expect(times.exponent).toBeGreaterThanOrEqual(0);
        expect(times.exponent).toBeLessThan(Number.POSITIVE_INFINITY);
      }),
      { numRuns: 500 },
    );
  });

  it('is ever less certain the longer there is no run, and in the end not sure', () => {
    const waits = fc.array(fc.double({ min: 0, max: 1e6, noNaN: true }), { maxLength: 10 });
    fc.assert(
      fc.property(runs, waits, size, (all, lasting, asked) => {
        const { times, now } = learn(all);
        let [at, before] = [now, times.certainty(now)];
        expect(before).toBeLessThanOrEqual(1);
        for (const wait of lasting) {
          at += wait;
          const certainty = times.certainty(at);
          expect(certainty).toBeGreaterThanOrEqual(0);
          expect(certainty).toBeLessThanOrEqual(before);
          expect(times.predict(asked, at).isSure).toBe(certainty >= 0.5);
          before = certainty;
        }
        expect(times.predict(asked, at + 300_000).isSure).toBe(false);
      }),
      { numRuns: 500 },
    );
  });

  it('names a size that it expects 99 of 100 runs of to be done within the time, or none', () => {
    const law = fc.record({
      power: fc.double({ min: 0, max: 3, noNaN: true }),
      noises: fc.array(fc.double({ min: -0.3, max: 0.3, noNaN: true }), { minLength: 10, maxLength: 60 }),
      limit: fc.double({ min: 0, max: 1, noNaN: true }),
    });
    const runsOf = ({ power, noises }: { power: number; noises: number[] }) =>
      noises.map((noise, n) => {
        const size = 10 * 1.3 ** (n % 30);
        return { size, ms: 0.1 * size ** power * Math.exp(noise), isDone: true, after: 10 };
      });
    let named = 0;
    fc.assert(
      fc.property(law, (told) => {
        const all = runsOf(told);
        const { times, now } = learn(all);
        const limit = (all[Math.floor(told.limit * (all.length - 1))] as Run).ms;
        const manages = times.manages(limit, now);
        if (manages === undefined) return;
        named++;
        expect(Number.isSafeInteger(manages) && manages >= 0).toBe(true);
        expect(times.predict(manages, now).isSure).toBe(true);
        expect(times.predict(manages, now).most).toBeLessThanOrEqual(limit * (1 + 1e-9));
      }),
      { numRuns: 500 },
    );
    expect(named).toBeGreaterThan(0);
  });

  it('finds by which power of the size the time grows', () => {
    for (const power of [0, 0.5, 1, 2, 3]) {
      const times = new RunTimes();
      for (let n = 0; n < 300; n++) times.add(100 * 1.05 ** (n % 100), 0.2 * 1.05 ** ((n % 100) * power), true, n);
      expect(times.exponent).toBeCloseTo(power, 1);
    }
  });

  it('knows what it manages from the runs around it, and says so only near what it has seen', () => {
    const times = square();
    // 25 ms are what 5,000 take; 99 of 100 is somewhat less.
    expect(times.manages(25, 0)).toBeGreaterThan(2000);
    expect(times.manages(25, 0)).toBeLessThan(5000);
    expect(times.manages(60_000, 0)).toBe(undefined);
    expect(square({ count: 9 }).manages(1, 0)).toBe(undefined);
  });

  it('is sure of nothing before the tenth run, nor where run times do not depend on the size', () => {
    expect(square({ count: 9 }).predict(1000, 0).isSure).toBe(false);
    expect(square({ count: 10 }).predict(1000, 0).isSure).toBe(true);
    const times = new RunTimes();
    for (let n = 0; n < 200; n++) times.add(1000 + n, n % 5 === 0 ? 300 : 10, true, n);
    expect(times.predict(1000, 200).isSure).toBe(false);
    expect(times.certainty(200)).toBe(0);
  });

  it('learns from a run that was stopped only that it takes longer', () => {
    const early = square();
    const before = early.predict(20_000, 0);
    for (let n = 0; n < 50; n++) early.add(20_000, 1, false, 0);
    expect(early.predict(20_000, 0)).toEqual(before);
    const late = square();
    for (let n = 0; n < 50; n++) late.add(20_000, 4000, false, 0);
    expect(late.predict(20_000, 0).median).toBeGreaterThan(2 * before.median);
  });

  it('never by runs that were stopped alone holds that a run takes longer than they were given', () => {
    const times = new RunTimes();
    for (let n = 0; n < 500; n++) times.add(1000 + 50 * n, 1000, false, n);
    expect(times.predict(20_000, 500).least).toBeLessThan(1000);
  });

  it('does not let a single outlier tilt the rest', () => {
    const times = square({ count: 100 });
    const { median } = times.predict(5000, 0);
    times.add(5000, 100_000, true, 0);
    expect(times.predict(5000, 0).median).toBeLessThan(1.1 * median);
  });

  it('believes what as large an input took of late rather than the line through all others', () => {
    const times = square();
    expect(times.predict(1e6, 0).least).toBeGreaterThan(10_000);
    times.add(2e6, 50, true, 0);
    expect(times.predict(1e6, 0).median).toBeLessThanOrEqual(50);
  });

  it('notices within thirty runs that everything has become ten times as slow, or as fast', () => {
    for (const factor of [1e-5, 1e-7]) {
      const times = square({ count: 100 });
      for (let n = 1; n <= 30; n++) times.add(500 * n, factor * (500 * n) ** 2, true, 0);
      const share = times.predict(5000, 0).median / (factor * 25e6);
      expect([share > 0.5, share < 2]).toEqual([true, true]);
    }
  });
});
