import { setTimeout as sleep } from 'node:timers/promises';
import { Expiry } from '../../lib/request/expiry';

export class TestExpiry extends Expiry {
  constructor(readonly expire: () => void) {
    super();
  }
}

/** How late one may be beside the time that the event loop was held up. */
const IN_TIME_MS = 5;
/** A round of a quiet event loop with a timer every millisecond is shorter. */
const EVERY_ROUND_MS = 3;

/**
 * Makes `count` expiries with random limits up to `longest` ms, spread over `lasting` ms, and extends and clears some
 * at random times; asserts that exactly those left pass, each in time and in the order of their times.
 */
export async function expireAtRandom({ count, lasting, longest }: { count: number; lasting: number; longest: number }) {
  const eventLoop = watchEventLoop();
  const passed: { due: number; at: number }[] = [];
  const cleared = new Set<Expiry>();
  const extended = new Set<Expiry>();
  let early = 0;
  let wrong = 0;

  const begin = () => {
    const expiry: Expiry = new TestExpiry(() => {
      const at = performance.now();
      passed.push({ due: expiry.at, at });
      if (at < expiry.at) early++;
      if (cleared.has(expiry)) wrong++;
    });
    const limit = 1 + Math.random() * longest;
    expiry.set(limit);
    const fate = Math.random();
    if (fate < 0.4) setTimeout(clear, Math.random() * limit, expiry);
    else if (fate < 0.6) setTimeout(extend, Math.random() * limit, expiry);
  };
  const clear = (expiry: Expiry) => {
    if (expiry.at <= performance.now()) return; // The timer that clears it was late.
    expiry.clear();
    cleared.add(expiry);
  };
  const extend = (expiry: Expiry) => {
    if (expiry.at <= performance.now() || extended.has(expiry)) return;
    extended.add(expiry);
    expiry.set(1 + Math.random() * longest);
  };

  const began = performance.now();
  for (let made = 0; made < count; await sleep(1)) {
    const due = ((performance.now() - began) / lasting) * count;
    for (; made < Math.min(due, count); made++) begin();
  }
  while (passed.length + cleared.size < count && performance.now() < began + lasting + 2 * longest + 10_000) {
    await sleep(5);
  }
  const heldUp = eventLoop.stop();

  expect({ ended: passed.length + cleared.size, early, wrong }).toEqual({ ended: count, early: 0, wrong: 0 });
  const outOfOrder = passed.filter(({ due }, n) => n > 0 && due < (passed[n - 1]?.due ?? 0));
  expect(outOfOrder).toEqual([]);
  const late = passed.filter(({ due, at }) => at - due > IN_TIME_MS + heldUp.within(due, at));
  expect(late).toEqual([]);
  expect(passed.length).toBeGreaterThan(count / 3);
  expect(extended.size).toBeGreaterThan(count / 20);
}

/** Notes when the event loop comes round: nothing is in time while something else holds it up. */
function watchEventLoop() {
  let seen = performance.now();
  const heldUp: { from: number; to: number }[] = [];
  const timer = setInterval(() => {
    const now = performance.now();
    if (now - seen > EVERY_ROUND_MS) heldUp.push({ from: seen, to: now });
    seen = now;
  }, 1);
  return {
    stop() {
      clearInterval(timer);
      return {
        /** For how long it was held up in and around this span. */
        within(from: number, to: number): number {
          const touching = heldUp.filter((span) => span.to >= from && span.from <= to);
          return touching.reduce((sum, span) => sum + span.to - span.from, 0);
        },
      };
    },
  };
}
