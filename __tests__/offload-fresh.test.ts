import { createPool } from 'express-unblock';
import { abortIn, abortInFreshWorker, LOOPS, OVERLOOKED } from './support/loops';

jest.setTimeout(60_000);

const kept: boolean[] = [];

describe('a call given up in a worker that has only just come up', () => {
  // On a busy machine one may take longer than the 100 ms that it has.
  it.each(Object.keys(LOOPS))('is interrupted, and the process kept: %s', async (kind) => {
    const all = [];
    for (const after of [1, 60]) all.push(await abortInFreshWorker(LOOPS[kind] as () => unknown, after));
    kept.push(...all.map(({ isKept }) => isKept));
    expect(all.some(({ isKept }) => isKept)).toBe(true);
  });

  it('is interrupted nearly always', () => {
    expect(kept.filter((isKept) => !isKept).length).toBeLessThanOrEqual(1);
  });

  it.each(Object.keys(OVERLOOKED))('is over for its caller at once, and the next call runs: %s', async (kind) => {
    await abortInFreshWorker(OVERLOOKED[kind] as () => unknown, 60);
  });

  // In the first one, the keeper comes up only while the call runs; its repeated signals are such, too.
  it('keeps its process, whoever else sends signals meanwhile', async () => {
    const after = Array.from({ length: 10 }, (_, n) => 120 + n);
    const burst = (pid: number) => {
      for (let n = 0; n < 4; n++) process.kill(pid, 'SIGINT');
    };
    const all = [];
    for (const ms of after) all.push(await abortInFreshWorker(LOOPS.arithmetic as () => unknown, ms, burst));
    expect(all.filter(({ isKept }) => isKept).length).toBeGreaterThanOrEqual(all.length - 1);
  });

  it('leaves a worker that can be interrupted again and again', async () => {
    const all = [];
    for (let n = 0; n < 5; n++) {
      await using pool = createPool({ workers: 1 });
      for (let m = 0; m < 4; m++) all.push(await abortIn(pool, LOOPS.arithmetic as () => unknown, 20));
    }
    expect(all.filter(({ isKept }) => !isKept).length).toBeLessThanOrEqual(1);
  });
});
