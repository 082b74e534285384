import { closePools, createPool, offload } from 'express-unblock';
import { childrenOf } from './support/workers';

afterAll(() => closePools({ grace: 0 }));

/** A generator of the same numbers for the same seed. */
function randomFrom(seed: number) {
  let state = seed;
  return () => {
    state = (state * 1_103_515_245 + 12_345) % 2_147_483_648;
    return state / 2_147_483_648;
  };
}

it('never interrupts, loses or answers twice a call that was not aborted, among 20,000 with a third aborted', async () => {
  await using pool = createPool({ workers: 2, maxQueue: 100 });
  const random = randomFrom(Number(process.env.SEED ?? 1));
  const work = offload(
    function work(id: number, turns: number) {
      let sum = id;
      for (let n = 0; n < turns; n++) sum = (sum * 31 + n) % 1_000_003;
      return [id, sum];
    },
    { pool },
  );
  const expected = (id: number, turns: number) => {
    let sum = id;
    for (let n = 0; n < turns; n++) sum = (sum * 31 + n) % 1_000_003;
    return [id, sum];
  };

  const counts = { right: 0, wrong: 0, aborted: 0, finishedBeforeAbort: 0 };
  const failures: unknown[] = [];
  let next = 0;
  async function client() {
    while (next < 20_000) {
      const id = next++;
      const turns = Math.floor(random() * 10_000);
      const stop = random() < 1 / 3 ? new AbortController() : undefined;
      const call = work.with({ signal: stop?.signal })(id, turns);
      if (stop !== undefined) {
        const at = random();
        if (at < 0.2) stop.abort();
        else if (at < 0.6) setImmediate(() => stop.abort());
        else setTimeout(() => stop.abort(), at * 4);
      }
      try {
        const result = await call;
        const right = String(result) === String(expected(id, turns));
        counts[right ? (stop === undefined ? 'right' : 'finishedBeforeAbort') : 'wrong']++;
      } catch (error) {
        if (stop !== undefined && error === stop.signal.reason) counts.aborted++;
        else failures.push(error);
      }
    }
  }
  await Promise.all(Array.from({ length: 8 }, client));

  const { right, aborted, finishedBeforeAbort } = counts;
  expect(failures).toEqual([]);
  expect(counts.wrong).toBe(0);
  expect(right + aborted + finishedBeforeAbort).toBe(20_000);
  expect(aborted).toBeGreaterThan(1000);
  expect(pool.stats()).toMatchObject({ queued: 0, failed: 0, died: 0, refused: 0, timedOut: 0 });
  expect(pool.stats().completed + pool.stats().cancelled).toBe(20_000);
  expect(childrenOf(process.pid).length).toBeLessThanOrEqual(2);
}, 120_000);
