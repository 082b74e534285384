import { closePools, createPool, offload } from 'express-unblock';
import { childrenOf, fixture, until } from './support/workers';

jest.setTimeout(30_000);

afterAll(() => closePools({ grace: 0 }));

describe('createPool({ spare })', () => {
  it('keeps that many more processes warm, which its stats tell apart', async () => {
    const pool = createPool({ workers: 2, spare: 1 });
    await pool.ready();
    expect(pool.stats()).toMatchObject({ workers: 1, spare: 1, busy: 0 });
  });

  it('has a spare worker take the place of a killed one, and starts the next', async () => {
    const pool = createPool({ workers: 1, spare: 1 });
    const { spin, where } = offload.module(fixture('tasks.mjs'), { pool });
    await pool.ready();
    for (let n = 0; n < 3; n++) {
      await until(() => pool.stats().spare === 1 && pool.stats().workers === 1);
      await pool.ready();
      const stop = new AbortController();
      const call = spin?.with({ signal: stop.signal })();
      await until(() => pool.stats().busy === 1);
      const before = childrenOf(process.pid);
      stop.abort();
      const next = where?.();
      await expect(call).rejects.toMatchObject({ name: 'AbortError' });
      const { pid } = (await next) as { pid: number };
      expect(before).toContain(pid);
    }
    expect(pool.stats()).toMatchObject({ completed: 3, cancelled: 3, died: 0 });
  });

  it('has never more calls under way than workers', async () => {
    const pool = createPool({ workers: 1, spare: 2 });
    await pool.ready();
    const wait = offload(() => new Promise((resolve) => setTimeout(resolve, 30)), { pool });
    const all = Promise.all([1, 2, 3].map(() => wait()));
    await until(() => pool.stats().busy > 0);
    expect(pool.stats()).toMatchObject({ busy: 1, queued: 2, workers: 1, spare: 2 });
    await all;
  });

  it('refuses what is no count', () => {
    for (const spare of [-1, 1.5, '1', Number.NaN]) {
      expect(() => createPool({ spare: spare as number })).toThrow(/createPool: spare must be an integer of 0 or more/);
    }
  });
});
