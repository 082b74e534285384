import { setTimeout as sleep } from 'node:timers/promises';
import { Expiry } from '../../lib/request/expiry';

export class TestExpiry extends Expiry {
  constructor(readonly expire: () => void) {
    super();
  }
}

/** How late one may be beside the time that the event loop was held up. */
const IN_TIME_MS = 5;
/** A round of a quiet event loop with a timer every millisecond is shorter; an expiry may take two of them. */
const EVERY_ROUND_MS = 2;

/** What has a limit in time. */
export interface Limited {
  /** When it passes, on the clock of `performance.now()`. */
  readonly at: number;
  /** Moves the limit to `ms` from now. */
  set(ms: number): void;
  /** Ends it before its limit, in any way. */
  clear(): void;
}

interface Course {
  readonly count: number;
  /** The time over which their beginnings are spread. */
  readonly lasting: number;
  readonly longest: number;
  begin?(ms: number, passed: () => void): Limited;
}

function beginExpiry(ms: number, passed: () => void): Limited {
  const expiry = new TestExpiry(passed);
  expiry.set(ms);
  return expiry;
}

/**
 * Begins many with random limits, and extends and clears some at random times; asserts that exactly those left pass,
 * each in time and in the order of their times.
 */
export async function expireAtRandom({ count, lasting, longest, begin = beginExpiry }: Course): Promise<void> {
  const eventLoop = watchEventLoop();
  const passed: { due: number; at: number }[] = [];
  const cleared = new Set<Limited>();
  const extended = new Set<Limited>();
  let early = 0;
  let wrong = 0;

  const beginOne = () => {
    const ms = 1 + Math.random() * longest;
    const one = begin(ms, () => {
      const at = performance.now();
      passed.push({ due: one.at, at });
      if (at < one.at) early++;
      if (cleared.has(one)) wrong++;
    });
    const fate = Math.random();
    if (fate < 0.4) setTimeout(clear, Math.random() * ms, one);
    else if (fate < 0.6) setTimeout(extend, Math.random() * ms, one);
  };
  // Where the timer that does it is late, it has passed or is about to.
  const clear = (one: Limited) => {
    if (one.at <= performance.now()) return;
    cleared.add(one);
    one.clear();
  };
  const extend = (one: Limited) => {
    if (one.at <= performance.now() || extended.has(one)) return;
    extended.add(one);
    one.set(1 + Math.random() * longest);
  };

  const began = performance.now();
  for (let made = 0; made < count; await sleep(1)) {
    const due = ((performance.now() - began) / lasting) * count;
    for (; made < Math.min(due, count); made++) beginOne();
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
