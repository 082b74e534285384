import { once } from 'node:events';
import { closePools, createPool, offload, type TaskContext } from 'express-unblock';
import { fixture, isAlive, runNode, startNode, untilGone } from './support/workers';

jest.setTimeout(30_000);

const SIGNALS = ['SIGTERM', 'SIGINT', 'SIGHUP', 'SIGQUIT'] as const;

afterAll(() => closePools({ grace: 0 }));

/** Tells its process once it runs, computes until the time is over, and returns its process. */
function compute(this: TaskContext, ms: number): number {
  this.progress(process.pid);
  for (const end = performance.now() + ms; performance.now() < end; );
  return process.pid;
}

/** A task that listens to the signals itself, as a module does that is part of the app as well. */
function listen(this: TaskContext, ms: number): number {
  for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP', 'SIGQUIT']) process.once(signal, () => process.exit(1));
  this.progress(process.pid);
  for (const end = performance.now() + ms; performance.now() < end; );
  for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP', 'SIGQUIT']) process.removeAllListeners(signal);
  return process.pid;
}

async function wait(this: TaskContext, ms: number): Promise<number> {
  this.progress(process.pid);
  await new Promise((resolve) => setTimeout(resolve, ms));
  return process.pid;
}

describe('a signal that a process manager sends to the workers, too,', () => {
  it.each([
    ['computes', offload(compute, { pool: createPool({ workers: 1 }) })],
    ['computes, in a module', offload.module(fixture('computes.cjs'), { pool: createPool({ workers: 1 }) }).compute],
    ['listens to it', offload(listen, { pool: createPool({ workers: 1 }) })],
    ['waits', offload(wait, { pool: createPool({ workers: 1 }) })],
  ])('ends no call that %s', async (_, run) => {
    // A SIGINT within some 50 ms of its start finds a worker whose keeper is not there yet.
    const pids = new Set([await run?.(1000)]);
    for (const signal of [...SIGNALS, ...SIGNALS]) {
      // At the beginning of a call, the keeper does not guard it yet; on a busy machine, that takes its time.
      const after = signal === 'SIGINT' ? 100 : 20;
      const told: number[] = [];
      const onProgress = (pid: number) => {
        told.push(pid);
        // In the middle, twice.
        setTimeout(() => process.kill(pid, signal), after);
        setTimeout(() => process.kill(pid, signal), after + 20);
      };
      const pid = await run?.with({ onProgress })(after + 60);
      expect(told).toEqual([pid]);
      pids.add(pid);
    }
    expect(pids.size).toBe(1);
  });

  it('leaves an idle worker alone', async () => {
    const pidOf = offload(() => process.pid, { pool: createPool({ workers: 1 }) });
    const pid = await pidOf();
    for (const signal of [...SIGNALS, ...SIGNALS]) {
      process.kill(pid, signal);
      await new Promise((resolve) => setTimeout(resolve, 5));
      expect(await pidOf()).toBe(pid);
    }
  });

  it('lets the app answer what is under way, and leaves no process', async () => {
    const app = startNode(fixture('shuts-down.cjs'));
    const [{ workers }] = (await once(app.child, 'message')) as [{ workers: number[] }];
    expect(workers.every(isAlive)).toBe(true);
    for (const pid of [...workers, app.child.pid as number]) process.kill(pid, 'SIGTERM');
    const { code, stdout } = await app.ended;
    expect([code, stdout]).toEqual([0, '200 whole answer\n']);
    await untilGone(...workers);
  });

  it('does not outlive its parent, which SIGKILL ends', async () => {
    const app = startNode(fixture('shuts-down.cjs'));
    const [{ workers }] = (await once(app.child, 'message')) as [{ workers: number[] }];
    for (const pid of workers) process.kill(pid, 'SIGTERM');
    app.child.kill('SIGKILL');
    expect(await untilGone(...workers)).toBeLessThan(2000);
  });
});

it('a file preloaded into a worker that listens to signals does not keep the worker from ignoring them', async () => {
  const { stdout } = await runNode('--require', fixture('exits-on-signals.cjs'), fixture('signals-its-worker.cjs'));
  expect(stdout).toBe('lives on\n');
});
