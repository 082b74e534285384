import type { ChildProcess } from 'node:child_process';
import { availableParallelism } from 'node:os';
import { setTimeout as wait } from 'node:timers/promises';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { closePools, createPool, offload, type PoolOptions } from 'express-unblock';
import { forkedDuring, isAlive, until } from './support/workers';

afterAll(() => closePools({ grace: 0 }));

interface Reporting {
  progress(value: unknown): void;
}

/** Tasks on a pool of their own. */
function poolOf(options: PoolOptions = {}) {
  const pool = createPool({ workers: 1, ...options });
  const run = <Args extends unknown[], Result>(fn: (...args: Args) => Result) => offload(fn, { pool });
  return {
    pool,
    echo: run(<T>(value: T) => value),
    pidOf: run(() => process.pid),
    sleep: run((ms: number) => new Promise<string>((resolve) => setTimeout(resolve, ms, 'slept'))),
    spin: run(() => {
      for (;;);
    }),
    [Symbol.asyncDispose]: () => pool.close({ grace: 0 }),
  };
}

setFlagsFromString('--expose-gc');
const collect = runInNewContext('gc') as () => void;

function memoryHeld(): number {
  collect();
  const { heapUsed, external } = process.memoryUsage();
  return heapUsed + external;
}

/** Resolves once the call's task runs. */
function running(run: { with: any }, ...args: unknown[]) {
  return new Promise<{ call: Promise<unknown>; abort: AbortController }>((resolve) => {
    const abort = new AbortController();
    const call = run.with({ signal: abort.signal, onProgress: () => resolve({ call, abort }) })(...args);
    call.catch(() => {});
  });
}

describe('createPool', () => {
  it.each([
    [{ workers: 0 }, /workers must be an integer of 1 or more, got 0/],
    [{ workers: 2, minWorkers: 3 }, /minWorkers must be at most workers \(2\), got 3/],
    [{ maxQueue: -1 }, /maxQueue must be an integer of 0 or more, got -1/],
    [{ memory: '512 bananas' }, /memory must be .* got "512 bananas"/],
    [{ memory: 5 }, /memory must be at least "1mb", got 5/],
    [{ env: 'A=1' }, /env must be an object .* got "A=1"/],
    [{ execArgv: '--inspect' }, /execArgv must be an array of strings, got "--inspect"/],
    [{ worker: 1 }, /unknown option "worker"/],
  ])('refuses %j', (options, message) => {
    expect(() => createPool(options as never)).toThrow(message);
    expect(() => createPool(options as never)).toThrow(expect.objectContaining({ code: 'ERR_UNBLOCK_BAD_OPTION' }));
  });

  it('starts no worker before it is needed, and no more than may be', async () => {
    const forked = await forkedDuring(async () => {
      await using tasks = poolOf({ workers: 2 });
      expect(tasks.pool.stats()).toMatchObject({ workers: 0, busy: 0 });
      await Promise.all(Array.from({ length: 20 }, (_, n) => tasks.echo(n)));
      expect(tasks.pool.stats().workers).toBe(2);
    });
    expect(forked).toHaveLength(2);
  });

  it('gives workers the environment and flags it was given', async () => {
    await using tasks = poolOf({ env: { ...process.env, COLOUR: 'green' }, execArgv: ['--no-deprecation'] });
    const look = offload(() => [process.env.COLOUR, process.noDeprecation], { pool: tasks.pool });
    expect(await look()).toEqual(['green', true]);
  });

  it('keeps minWorkers warm, and replaces dead ones', async () => {
    await using tasks = poolOf({ workers: 2, minWorkers: 2 });
    await tasks.pool.ready();
    const pid = await tasks.pidOf();
    await forkedDuring(async (forked) => {
      process.kill(pid, 'SIGKILL');
      await until(() => forked.length === 1);
      await tasks.pool.ready();
      expect(tasks.pool.stats().workers).toBe(2);
    });
    expect(isAlive(pid)).toBe(false);
  });

  it('by default leaves one processor to the event loop', async () => {
    const forked = await forkedDuring(async () => {
      await using pool = createPool();
      const echo = offload((value: number) => value, { pool });
      await Promise.all([1, 2, 3, 4, 5, 6].map((n) => echo(n)));
    });
    expect(forked).toHaveLength(Math.min(6, Math.max(1, availableParallelism() - 1)));
  });
});

describe('the queue of a pool', () => {
  it('runs the call with the earliest deadline first, and equals in the order they came', async () => {
    await using tasks = poolOf();
    const order: string[] = [];
    const say = (name: string, timeout: number) =>
      tasks.echo
        .with({ timeout })(name)
        .then((said) => order.push(said as string));
    await Promise.all([say('first', 60_000), say('late', 50_000), say('soon', 20_000), say('later', 50_000)]);
    expect(order).toEqual(['soon', 'late', 'later', 'first']);
  });

  it('lets a call that has waited until its function may take longer than is left wait for the others', async () => {
    await using tasks = poolOf();
    const order: string[] = [];
    const say = (name: string, timeout: number) =>
      tasks.sleep
        .with({ timeout })(0)
        .then(() => order.push(name));
    await tasks.sleep(2000);
    const fresh = [tasks.sleep(1), say('fresh', 1800), say('late', 30_000)];
    await Promise.all(fresh);
    expect(order.splice(0)).toEqual(['fresh', 'late']);
    const waited = [tasks.sleep(1000), say('tight', 1800), say('tighter', 1700)];
    await Promise.all([...waited, say('late', 30_000), say('soon', 20_000)]);
    expect(order).toEqual(['soon', 'late', 'tighter', 'tight']);
  });

  it('refuses with a Retry-After from the real backlog when it is full', async () => {
    await using tasks = poolOf({ maxQueue: 2 });
    await tasks.sleep(1200);
    const { call, abort } = await running(
      offload(
        function (this: Reporting) {
          this.progress(1);
          for (;;);
        },
        { pool: tasks.pool },
      ),
    );
    const waiting = [tasks.echo(1), tasks.echo(2)];
    await expect(tasks.echo(3)).rejects.toMatchObject({
      code: 'ERR_UNBLOCK_QUEUE_FULL',
      status: 503,
      retryAfter: 4,
      headers: { 'Retry-After': '4' },
    });
    abort.abort();
    await expect(call).rejects.toMatchObject({ name: 'AbortError' });
    expect(await Promise.all(waiting)).toEqual([1, 2]);
    expect(tasks.pool.stats()).toMatchObject({ refused: 1, cancelled: 1, completed: 3, queued: 0 });
  });

  it('lets nobody wait with maxQueue: 0, though a worker may first have to start', async () => {
    await using tasks = poolOf({ workers: 2, maxQueue: 0 });
    const two = [tasks.sleep(50), tasks.sleep(50)];
    await expect(tasks.sleep(50)).rejects.toMatchObject({ code: 'ERR_UNBLOCK_QUEUE_FULL' });
    expect(await Promise.all(two)).toEqual(['slept', 'slept']);
  });

  it('has room with maxQueue: 0 for a call made as soon as another was given up', async () => {
    await using tasks = poolOf({ maxQueue: 0 });
    await expect(tasks.spin.with({ timeout: 30 })()).rejects.toMatchObject({ code: 'ERR_UNBLOCK_TIMEOUT' });
    expect(await tasks.echo('next')).toBe('next');
  });

  it('never starts a call whose time ran out while it waited', async () => {
    await using tasks = poolOf();
    const marked = offload(
      function mark() {
        process.title += ' marked';
      },
      { pool: tasks.pool },
    );
    const { abort } = await running(
      offload(
        function (this: Reporting) {
          this.progress(1);
          for (;;);
        },
        { pool: tasks.pool },
      ),
    );
    await expect(marked.with({ timeout: 20 })()).rejects.toMatchObject({
      code: 'ERR_UNBLOCK_TIMEOUT',
      status: 504,
      timeout: 20,
      message: 'mark exceeded its time limit of 20 ms',
    });
    abort.abort();
    expect(await offload(() => process.title, { pool: tasks.pool })()).not.toContain('marked');
  });

  it('lets 30,000 waiting calls go at once on one abort, with their arguments, without a warning', async () => {
    await using tasks = poolOf({ maxQueue: 30_000 });
    const warnings: Error[] = [];
    const onWarning = (warning: Error) => warnings.push(warning);
    process.on('warning', onWarning);
    const { abort } = await running(
      offload(
        function (this: Reporting) {
          this.progress(1);
          for (;;);
        },
        { pool: tasks.pool },
      ),
    );
    const all = new AbortController();
    const ended = Promise.allSettled(
      Array.from({ length: 30_000 }, () => tasks.echo.with({ signal: all.signal })(Buffer.alloc(1024))),
    );
    await until(() => tasks.pool.stats().queued === 30_000);
    const held = memoryHeld();
    all.abort();
    const outcomes = await ended;
    expect(outcomes.every(({ status }) => status === 'rejected')).toBe(true);
    expect(tasks.pool.stats()).toMatchObject({ queued: 0, cancelled: 30_000 });
    expect(held - memoryHeld()).toBeGreaterThan(30_000 * 1024);
    abort.abort();
    expect(await tasks.echo('next')).toBe('next');
    await new Promise(setImmediate);
    process.off('warning', onWarning);
    expect(warnings).toEqual([]);
  }, 20_000);
});

describe('a worker that dies', () => {
  it.each(['SIGKILL', 'SIGSEGV', 'SIGABRT'] as const)(
    'idle, by %s, is not noticed by the next calls',
    async (signal) => {
      await using tasks = poolOf({ workers: 2 });
      const pids = await Promise.all([tasks.sleep(30), tasks.pidOf(), tasks.sleep(30), tasks.pidOf()]);
      for (const pid of pids.filter((pid) => typeof pid === 'number')) process.kill(pid, signal);
      // Before the deaths are known here, and after.
      expect(await Promise.all([1, 2, 3].map((n) => tasks.echo(n)))).toEqual([1, 2, 3]);
      expect(await tasks.echo(4)).toBe(4);
      expect(tasks.pool.stats()).toMatchObject({ died: 0, failed: 0 });
    },
  );

  it.each([
    [
      'SIGKILL',
      { exitCode: null, signal: 'SIGKILL' },
      () => {
        process.kill(process.pid, 'SIGKILL');
      },
    ],
    [
      'a native crash',
      { exitCode: null, signal: 'SIGSEGV' },
      () => {
        process.kill(process.pid, 'SIGSEGV');
        for (;;);
      },
    ],
    ['process.exit()', { exitCode: 7, signal: null }, () => process.exit(7)],
    [
      'process.exit() later',
      { exitCode: 8, signal: null },
      async () => {
        await new Promise((resolve) => setTimeout(resolve, 5));
        process.exit(8);
      },
    ],
    [
      'process.disconnect()',
      { exitCode: 1, signal: null },
      async () => {
        process.disconnect();
        await new Promise(() => {});
      },
    ],
  ])('of %s during a task ends that call alone, and the queue goes on', async (_, death, task) => {
    await using tasks = poolOf();
    await tasks.pool.ready();
    const dies = offload(task as () => unknown, { pool: tasks.pool });
    const calls = [dies(), tasks.echo('next'), tasks.echo('last')];
    await expect(calls[0]).rejects.toMatchObject({
      code: 'ERR_UNBLOCK_WORKER_DIED',
      status: 500,
      expose: false,
      message: expect.stringMatching(/^The worker process stopped while running \w+$/),
      ...death,
    });
    expect(await Promise.all(calls.slice(1))).toEqual(['next', 'last']);
    expect(tasks.pool.stats()).toMatchObject({ died: 1, completed: 2 });
  });

  it('never has its begun call done again', async () => {
    await using tasks = poolOf({ workers: 2 });
    const { mkdtempSync, readFileSync } = require('node:fs');
    const file = `${mkdtempSync(`${require('node:os').tmpdir()}/unblock-`)}/begun`;
    const dies = offload(
      function dies(to: string, id: number) {
        require('node:fs').appendFileSync(to, `${id}\n`);
        process.kill(process.pid, 'SIGKILL');
      },
      { pool: tasks.pool },
    );
    const outcomes = await Promise.allSettled(Array.from({ length: 20 }, (_, id) => dies(file, id)));
    const begun: string[] = readFileSync(file, 'utf8').trim().split('\n');
    expect(outcomes.map(({ status }) => status)).toEqual(Array(20).fill('rejected'));
    expect(begun.sort()).toEqual(Array.from({ length: 20 }, (_, id) => String(id)).sort());
  }, 20_000);

  it('of its memory cap is the error of the call that exceeded it', async () => {
    await using tasks = poolOf({ memory: '40mb' });
    const hoard = offload(
      function hoard() {
        const all: unknown[] = [];
        for (;;) all.push(Array(1000).fill(all.length));
      },
      { pool: tasks.pool },
    );
    const [first, second] = await Promise.allSettled([hoard(), tasks.echo('next')]);
    expect(first).toMatchObject({ status: 'rejected', reason: { code: 'ERR_UNBLOCK_WORKER_DIED' } });
    expect(second).toEqual({ status: 'fulfilled', value: 'next' });
  }, 20_000);
});

describe('a worker that cannot start', () => {
  it.each([
    ['a flag that does not exist', { execArgv: ['--no-such-flag'] }, /bad option: --no-such-flag/],
    [
      'a module that is not there',
      { execArgv: ['--require', '/nowhere/preload.js'] },
      /Cannot find module '\/nowhere\//,
    ],
    [
      'a loader that is not there',
      { execArgv: ['--import', 'no-such-loader'] },
      /Cannot find package 'no-such-loader'/,
    ],
    [
      'what is preloaded and ends it',
      { execArgv: ['--import', 'data:text/javascript,process.exit(7)'] },
      /exit code 7/,
    ],
    ['an environment that is too big', { env: { BIG: 'x'.repeat(3e6) } }, /E2BIG/],
  ])('for %s is an error of the waiting calls with its cause, without a storm of forks', async (_, options, cause) => {
    await using tasks = poolOf({ workers: 2, ...options });
    const forked = await forkedDuring(async () => {
      const outcomes = await Promise.allSettled(Array.from({ length: 50 }, () => tasks.echo(1)));
      for (const outcome of outcomes) {
        expect(outcome).toMatchObject({
          status: 'rejected',
          reason: { code: 'ERR_UNBLOCK_WORKER_DIED', status: 500, message: expect.stringContaining('could not start') },
        });
        expect((outcome as PromiseRejectedResult).reason.cause.message).toMatch(cause);
      }
      for (let n = 0; n < 20; n++) await tasks.echo(1).catch(() => {});
    });
    expect(forked.length).toBeLessThanOrEqual(4);
    expect(tasks.pool.stats()).toMatchObject({ workers: 0, queued: 0, died: 70 });
    await expect(tasks.pool.ready()).rejects.toMatchObject({
      code: 'ERR_UNBLOCK_WORKER_DIED',
      cause: { message: expect.stringMatching(cause) },
    });
  });

  it('is told to whoever asks again, also while the pause after the last try ends', async () => {
    // The pause takes a second, a start that fails about a tenth of it.
    const askAfter = async (ms: number) => {
      await using tasks = poolOf({ workers: 1, execArgv: ['--no-such-flag'] });
      await tasks.echo(1).catch(() => {});
      await wait(ms);
      await expect(tasks.pool.ready()).rejects.toMatchObject({ code: 'ERR_UNBLOCK_WORKER_DIED' });
    };
    await Promise.all(Array.from({ length: 20 }, (_, n) => askAfter(800 + 10 * n)));
  }, 20_000);

  it('because it is killed before it is ready is replaced, and the waiting call just works', async () => {
    await using tasks = poolOf({ workers: 1 });
    const forked = await forkedDuring(async (forked) => {
      const call = tasks.echo('still here');
      for (let n = 0; n < 3; n++) {
        await until(() => forked.length > n);
        (forked[n] as ChildProcess).kill('SIGKILL');
      }
      expect(await call).toBe('still here');
    });
    expect(forked).toHaveLength(4);
  });

  it('because its loader hangs ends calls at their time, and the pool can be closed', async () => {
    const hangs = 'data:text/javascript,await new Promise(() => setInterval(() => {}, 1000))';
    const tasks = poolOf({ execArgv: ['--import', hangs] });
    const [child] = await forkedDuring(() =>
      expect(tasks.echo.with({ timeout: 200 })(1)).rejects.toMatchObject({ code: 'ERR_UNBLOCK_TIMEOUT' }),
    );
    await tasks.pool.close({ grace: 0 });
    expect(isAlive(child?.pid as number)).toBe(false);
  });
});

describe('pool.close()', () => {
  it('lets calls finish, then leaves no child', async () => {
    const tasks = poolOf({ workers: 2 });
    const pid = await tasks.pidOf();
    const calls = [tasks.sleep(60), tasks.sleep(60), tasks.sleep(60)];
    await tasks.pool.close();
    expect(await Promise.all(calls)).toEqual(['slept', 'slept', 'slept']);
    expect(isAlive(pid)).toBe(false);
    expect(tasks.pool.stats()).toMatchObject({ workers: 0, busy: 0, queued: 0, completed: 4 });
  });

  it.each([[0], ['50ms']] as const)('ends what is not done within a grace of %s', async (grace) => {
    const tasks = poolOf();
    const pid = await tasks.pidOf();
    const calls = [tasks.spin(), tasks.spin(), tasks.echo(1)].map((call) => call.catch((error) => error));
    await tasks.pool.close({ grace });
    for (const error of await Promise.all(calls)) {
      expect(error).toMatchObject({ code: 'ERR_UNBLOCK_POOL_CLOSED', status: 503 });
    }
    expect(isAlive(pid)).toBe(false);
    expect(tasks.pool.stats()).toMatchObject({ refused: 3 });
  });

  it('goes on with the queue when a worker dies meanwhile', async () => {
    const tasks = poolOf();
    const dies = offload(() => process.exit(3), { pool: tasks.pool });
    await tasks.pool.ready();
    const calls = [dies(), tasks.echo('queued')];
    const closed = tasks.pool.close({ grace: '1m' });
    await expect(calls[0]).rejects.toMatchObject({ code: 'ERR_UNBLOCK_WORKER_DIED' });
    expect(await calls[1]).toBe('queued');
    await closed;
  });

  it('rejects later calls, may be called again, and refuses a bad grace', async () => {
    const tasks = poolOf();
    await tasks.echo(1);
    const [first, second] = [tasks.pool.close(), tasks.pool.close()];
    await expect(tasks.echo(2)).rejects.toMatchObject({ code: 'ERR_UNBLOCK_POOL_CLOSED', status: 503 });
    await Promise.all([first, second, tasks.pool.close()]);
    await expect(tasks.pool.ready()).rejects.toMatchObject({ code: 'ERR_UNBLOCK_POOL_CLOSED' });
    expect(() => tasks.pool.close({ grace: -1 })).toThrow(/grace must be 0 to 2147483647 ms, got -1/);
  });

  it('is what `await using` and closePools() do', async () => {
    let pid: number;
    {
      await using pool = createPool({ workers: 1 });
      pid = await offload(() => process.pid, { pool })();
    }
    expect(isAlive(pid)).toBe(false);
    const others = [poolOf(), poolOf()];
    const pids = await Promise.all(others.map(({ pidOf }) => pidOf()));
    await closePools();
    expect(pids.map(isAlive)).toEqual([false, false]);
  });
});

describe('pool.stats()', () => {
  it('adds up', async () => {
    await using tasks = poolOf({ maxQueue: 2 });
    const { call, abort } = await running(
      offload(
        function (this: Reporting) {
          this.progress(1);
          for (;;);
        },
        { pool: tasks.pool },
      ),
    );
    expect(tasks.pool.stats()).toMatchObject({ workers: 1, busy: 1, queued: 0 });
    const late = tasks.echo.with({ timeout: 10 })(1);
    const queued = tasks.echo(2);
    const refused = tasks.echo(3);
    expect(tasks.pool.stats()).toMatchObject({ queued: 2, refused: 1 });
    await Promise.allSettled([late, refused]);
    abort.abort();
    await Promise.allSettled([call, queued]);
    await offload(
      () => {
        throw new Error();
      },
      { pool: tasks.pool },
    )().catch(() => {});
    await offload(() => process.exit(), { pool: tasks.pool })().catch(() => {});
    const stats = tasks.pool.stats();
    expect(stats).toMatchObject({ completed: 1, failed: 1, timedOut: 1, cancelled: 1, refused: 1, died: 1, queued: 0 });
    for (const { p50, p90, p99, max } of [stats.wait, stats.run]) {
      expect([p50, p90, p99, max]).toEqual([p50, p90, p99, max].sort((a, b) => a - b));
      expect(p50).toBeGreaterThan(0);
    }
    expect(stats.run.max).toBeGreaterThanOrEqual(9);
  });
});
