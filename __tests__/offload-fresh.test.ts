import { abortInFreshWorker, LOOPS, OVERLOOKED } from './support/loops';

describe('a call given up in a worker that has only just come up', () => {
  it.each(Object.keys(LOOPS))('is interrupted, and the process kept: %s', async (kind) => {
    const all = [];
    for (const after of [1, 30, 150]) all.push(await abortInFreshWorker(LOOPS[kind] as () => unknown, after));
    // On a busy machine one may not be done with within 100 ms.
    expect(all.filter(({ isKept }) => isKept).length).toBeGreaterThanOrEqual(2);
  });

  it.each(Object.keys(OVERLOOKED))('is over for its caller at once, and the next call runs: %s', async (kind) => {
    for (const after of [1, 150]) await abortInFreshWorker(OVERLOOKED[kind] as () => unknown, after);
  });
});
