import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { closePools, createPool, offload } from 'express-unblock';
import { fixture } from './support/workers';

jest.setTimeout(30_000); // Processes start, on however busy a machine.

afterAll(() => closePools({ grace: 0 }));

setFlagsFromString('--expose-gc');
const collect = runInNewContext('gc') as () => void;

describe('where clients choose', () => {
  it('the names of exports, those that are in use stay and the others go', async () => {
    const tasks = offload.module<Record<string, (...args: unknown[]) => unknown>>(fixture('tasks.mjs'));
    const used = tasks.double;
    const unused = new WeakRef(tasks.ofAClient as object);
    for (let n = 0; n < 2000; n++) {
      expect(tasks[`name${n}`]).toBeInstanceOf(Function);
      expect(tasks.double).toBe(used);
    }
    await new Promise((resolve) => setImmediate(resolve));
    collect();
    expect(unused.deref()).toBeUndefined();
    expect(await used?.(21)).toBe(42);
    await expect(tasks.name7?.()).rejects.toMatchObject({ code: 'ERR_UNBLOCK_NO_SUCH_EXPORT' });
  });

  it('the texts of functions, a worker forgets those it had, and runs all of them', async () => {
    await using pool = createPool({ workers: 1 });
    const made = (n: number) => offload(new Function(`return ${n};`) as () => number, { pool });
    const first = made(0);
    expect(await first()).toBe(0);
    const calls = Array.from({ length: 2100 }, (_, n) => made(n));
    for (let from = 0; from < calls.length; from += 300) {
      const results = await Promise.all(calls.slice(from, from + 300).map((call) => call()));
      expect(results).toEqual(results.map((_, n) => from + n));
    }
    expect(await first()).toBe(0);
    expect(await calls[1]?.()).toBe(1);
  }, 20_000);
});
