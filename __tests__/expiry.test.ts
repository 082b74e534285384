import { AsyncLocalStorage } from 'node:async_hooks';
import { execFile } from 'node:child_process';
import path from 'node:path';
import { setImmediate as immediate } from 'node:timers/promises';
import { promisify } from 'node:util';
import type { Expiry } from '../lib/request/expiry';
import { expireAtRandom, TestExpiry } from './support/expiries';

const doNothing = () => {};
/** The timers that hold the process; Jest has some of its own. */
const timersHeld = () => process.getActiveResourcesInfo().filter((name) => name === 'Timeout').length;

/** Blocks the event loop. */
function block(ms: number): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms);
}

function expired(limit: number): { expiry: Expiry; at: Promise<number> } {
  const { promise, resolve } = withResolvers<number>();
  const expiry = new TestExpiry(() => resolve(performance.now()));
  expiry.set(limit);
  return { expiry, at: promise };
}

function withResolvers<T>() {
  let resolve!: (value: T) => void;
  const promise = new Promise<T>((settle) => {
    resolve = settle;
  });
  return { promise, resolve };
}

describe('Expiry', () => {
  it('never comes early, whatever fraction of a millisecond its limit has', async () => {
    const all = Array.from({ length: 200 }, (_, n) => expired(1 + n / 7));
    for (const { expiry, at } of all) expect(await at).toBeGreaterThanOrEqual(expiry.at);
  });

  it('comes in the order of its time, and first in first out among equals', async () => {
    const order: string[] = [];
    const last = withResolvers<void>();
    const add = (name: string, limit: number) => {
      const expiry = new TestExpiry(() => {
        order.push(name);
        if (name === 'last') last.resolve();
      });
      expiry.set(limit);
      return expiry;
    };
    // The clock stands still while they are set: some are due at the very same time.
    const now = jest.spyOn(performance, 'now').mockReturnValue(performance.now());
    add('b', 20);
    add('last', 40);
    add('a', 10);
    const moved = add('moved', 5);
    moved.set(30);
    for (const name of ['c', 'd', 'e']) add(name, 20);
    add('cleared', 15).clear();
    now.mockRestore();
    await last.promise;
    expect(order).toEqual(['a', 'b', 'c', 'd', 'e', 'moved', 'last']);
  });

  it('runs in the async context in which it was made, whoever made the timer or moved it', async () => {
    const storage = new AsyncLocalStorage<string>();
    const seen: [string, string | undefined][] = [];
    const make = (name: string) => new TestExpiry(() => seen.push([name, storage.getStore()]));
    const first = storage.run('first', () => make('first'));
    const second = storage.run('second', () => make('second'));
    const third = make('third');
    storage.run('another', () => {
      first.set(5);
      second.set(5);
      third.set(10);
    });
    await storage.run('waits', () => expired(20).at);
    expect(seen).toEqual([
      ['first', 'first'],
      ['second', 'second'],
      ['third', undefined],
    ]);
  });

  it('does not pass where the work was done while the event loop was blocked', async () => {
    const passed: string[] = [];
    const done = new TestExpiry(() => passed.push('done'));
    const extended = new TestExpiry(() => passed.push('extended'));
    const undone = new TestExpiry(() => passed.push('undone'));
    for (const expiry of [done, extended, undone]) expiry.set(5);
    await immediate();
    block(30);
    // Has its turn in the next round, after the timers, as what came in on a socket does.
    setImmediate(() => {
      done.clear();
      extended.set(5_000);
    });
    await expired(10).at;
    extended.clear();
    expect(passed).toEqual(['undone']);
  });

  it('holds the process while it waits, and no longer', async () => {
    const before = timersHeld();
    const first = new TestExpiry(doNothing);
    const second = new TestExpiry(doNothing);
    first.set(10_000);
    second.set(20_000);
    expect(timersHeld()).toBe(before + 1);
    first.clear();
    expect(timersHeld()).toBe(before + 1);
    second.clear();
    expect(timersHeld()).toBe(before);
    second.set(30_000);
    expect(timersHeld()).toBe(before + 1);
    second.clear();
    second.clear();
    expect(timersHeld()).toBe(before);
    await expired(5).at;
    expect(timersHeld()).toBe(before);
  });

  it('lets a process end at once when all is cleared, and not before the rest has passed', async () => {
    const code = `
      const { Expiry } = require(${JSON.stringify(path.join(__dirname, '..', 'dist', 'request', 'expiry.js'))});
      class TestExpiry extends Expiry {
        constructor(expire) {
          super();
          this.expire = expire;
        }
      }
      const cleared = new TestExpiry(() => {});
      cleared.set(100_000);
      new TestExpiry(() => console.log('passed')).set(50);
      cleared.clear();
    `;
    const { stdout } = await promisify(execFile)(process.execPath, ['-e', code], { timeout: 20_000 });
    expect(stdout).toBe('passed\n');
  });

  it("wakes under a test's fake timers, and after them", async () => {
    const before = new TestExpiry(doNothing);
    const left = new TestExpiry(doNothing);
    before.set(50);
    jest.useFakeTimers();
    try {
      const passed = jest.fn();
      new TestExpiry(passed).set(10_000);
      await jest.advanceTimersByTimeAsync(9_999);
      expect(passed).not.toHaveBeenCalled();
      await jest.advanceTimersByTimeAsync(2);
      expect(passed).toHaveBeenCalledTimes(1);
      left.set(20_000); // The fake timer for it never fires.
    } finally {
      jest.useRealTimers();
    }
    await expired(10).at;
    for (const expiry of [before, left]) expiry.clear();
  });

  it('passes in the right order and in time for thousands with random limits, extensions and clearings', async () => {
    const before = timersHeld();
    await expireAtRandom({ count: 5_000, lasting: 1_500, longest: 1_000 });
    expect(timersHeld()).toBeLessThanOrEqual(before); // Some of other tests may have ended.
  }, 30_000);
});
