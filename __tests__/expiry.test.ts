import { AsyncLocalStorage } from 'node:async_hooks';
import { execFile } from 'node:child_process';
import path from 'node:path';
import { setImmediate as immediate } from 'node:timers/promises';
import { promisify } from 'node:util';
import type { Expiry } from '../lib/request/expiry';
import { expireAtRandom, TestExpiry } from './support/expiries';

const doNothing = () => {};

/** Runs code in a process of its own: there, no timer is anybody else's. */
function runAlone(code: string) {
  const all = `
    const { Expiry } = require(${JSON.stringify(path.join(__dirname, '..', 'dist', 'request', 'expiry.js'))});
    class TestExpiry extends Expiry {
      constructor(expire) {
        super();
        this.expire = expire;
      }
    }
    function tellTimersHeld() {
      console.log(process.getActiveResourcesInfo().filter((name) => name === 'Timeout').length);
    }
    ${code}
  `;
  return promisify(execFile)(process.execPath, ['-e', all], { timeout: 20_000 });
}

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
    const { stdout } = await runAlone(`
      const first = new TestExpiry(() => {});
      const second = new TestExpiry(() => {});
      first.set(10_000);
      second.set(20_000);
      tellTimersHeld();
      first.clear();
      tellTimersHeld();
      second.clear();
      tellTimersHeld();
      second.set(30_000);
      tellTimersHeld();
      second.clear();
      second.clear();
      tellTimersHeld();
      new TestExpiry(tellTimersHeld).set(5);
    `);
    expect(stdout.trim().split('\n').map(Number)).toEqual([1, 1, 0, 1, 0, 0]);
  });

  it('lets a process end at once when all is cleared, and not before the rest has passed', async () => {
    const { stdout } = await runAlone(`
      const cleared = new TestExpiry(() => {});
      cleared.set(100_000);
      new TestExpiry(() => console.log('passed')).set(50);
      cleared.clear();
    `);
    expect(stdout).toBe('passed\n');
  });

  it('leaves nothing that holds a process after thousands that were set, moved and cleared at random', async () => {
    const { stdout } = await runAlone(`
      const { setTimeout: sleep } = require('node:timers/promises');
      const random = () => 1 + Math.random() * 500;
      let passed = 0;
      let cleared = 0;
      (async () => {
        for (let n = 0; n < 5_000; n++) {
          const expiry = new TestExpiry(() => passed++);
          expiry.set(random());
          if (n % 3 === 0) expiry.set(random());
          if (n % 5 < 2) {
            expiry.clear();
            cleared++;
          }
          if (n % 50 === 0) await sleep(1);
        }
        new TestExpiry(() => setImmediate(tellTimersHeld)).set(600);
      })();
      process.on('exit', () => console.log(passed + cleared));
    `);
    expect(stdout).toBe('0\n5000\n');
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
    await expireAtRandom({ count: 5_000, lasting: 1_500, longest: 1_000 });
  }, 30_000);
});
