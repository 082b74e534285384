import { type CallOptions, closePools, createPool, offload, type WorkerPool } from 'express-unblock';
import { fixture, forkedDuring, isAlive, until, untilGone } from './support/workers';

jest.setTimeout(30_000);

const pool = createPool({ workers: 1 });
const pidOf = offload(() => process.pid, { pool });

beforeAll(() => pool.ready());
afterAll(() => closePools({ grace: 0 }));

interface Reporting {
  progress(value: unknown): void;
}

/** Aborts once the task says that it runs; answers what the caller got, and how long the next task then took. */
async function abortOnceRunning(run: { with: any }, after = 3) {
  const stop = new AbortController();
  const reason = new Error('no longer needed');
  let abortedAt = 0;
  const onProgress = () =>
    setTimeout(() => {
      abortedAt = performance.now();
      stop.abort(reason);
    }, after);
  const error = await run
    .with({ signal: stop.signal, onProgress })()
    .catch((thrown: unknown) => thrown);
  const toldAfter = performance.now() - abortedAt;
  const pid = await pidOf();
  return { error, reason, toldAfter, pid, backAfter: performance.now() - abortedAt };
}

/** A machine may let nobody run for the 100 ms that an interrupt has; for no other reason may a worker be replaced. */
function hasSurvived(before: number, after: number, backAfter: number): boolean {
  if (after !== before) expect(backAfter).toBeGreaterThan(99);
  return after === before;
}

describe("reclaim: 'interrupt'", () => {
  it.each([
    [
      'a loop',
      offload(
        function (this: Reporting) {
          this.progress(1);
          for (;;);
        },
        { pool },
      ),
    ],
    [
      'a catastrophic regular expression',
      offload(
        function (this: Reporting) {
          this.progress(1);
          return /^(a+)+$/.test(`${'a'.repeat(60)}!`);
        },
        { pool },
      ),
    ],
    [
      'sorting',
      offload(
        function (this: Reporting) {
          this.progress(1);
          for (;;) Array.from({ length: 1e6 }, (_, n) => (n * 7919) % 1e6).sort((a, b) => a - b);
        },
        { pool },
      ),
    ],
    [
      'JSON',
      offload(
        function (this: Reporting) {
          const big = Array.from({ length: 1e5 }, (_, n) => ({ n, text: String(n) }));
          this.progress(1);
          for (;;) JSON.stringify(big);
        },
        { pool },
      ),
    ],
    [
      'code that catches everything',
      offload(
        function (this: Reporting) {
          this.progress(1);
          for (;;) {
            try {
              for (;;);
            } catch {
            } finally {
              Math.random();
            }
          }
        },
        { pool },
      ),
    ],
  ])('breaks %s, and the same process does the next task', async (_, run) => {
    const survived: boolean[] = [];
    for (let round = 0; round < 5; round++) {
      const before = await pidOf();
      const { error, reason, pid, backAfter } = await abortOnceRunning(run);
      expect(error).toBe(reason);
      survived.push(hasSurvived(before, pid, backAfter));
    }
    expect(survived.filter(Boolean).length).toBeGreaterThanOrEqual(4);
  });

  it('keeps the same process over 200 aborts at all moments of a task', async () => {
    // From Node 24 on, V8 sees no interrupt while another thread optimises the loop.
    const pool = createPool({ workers: 1, execArgv: ['--no-concurrent-recompilation'] });
    const pidOf = offload(() => process.pid, { pool });
    const spin = offload(
      () => {
        for (;;);
      },
      { pool },
    );
    await pool.ready();
    const survived: boolean[] = [];
    for (let n = 0; n < 200; n++) {
      const before = await pidOf();
      const stop = new AbortController();
      const call = spin.with({ signal: stop.signal })();
      for (let turn = 0; turn < n % 5; turn++) await new Promise(setImmediate);
      const abortedAt = performance.now();
      stop.abort();
      await expect(call).rejects.toMatchObject({ name: 'AbortError' });
      survived.push(hasSurvived(before, await pidOf(), performance.now() - abortedAt));
    }
    expect(survived.filter(Boolean).length).toBeGreaterThanOrEqual(198);
  }, 20_000);

  it('is aimed at its own task only, though another SIGINT came before', async () => {
    const before = await pidOf();
    process.kill(before, 'SIGINT');
    const spin = offload(
      () => {
        for (;;);
      },
      { pool, timeout: 5 },
    );
    const work = offload(
      (until: number) => {
        let sum = 0;
        for (let n = 0; n < until; n++) sum += n % 3;
        return sum;
      },
      { pool },
    );
    // It may come so late that it ends this very call, if the worker has only just come up.
    await work(3e5).catch((error: Error) => expect(error.message).toMatch('by a SIGINT'));
    const expected = await work(3e5);
    expect(await pidOf()).toBe(before);
    for (let n = 0; n < 30; n++) {
      await expect(spin()).rejects.toMatchObject({ code: 'ERR_UNBLOCK_TIMEOUT' });
      expect(await work(3e5)).toBe(expected);
    }
  });
});

describe('what cannot be interrupted is killed, and another worker goes on', () => {
  it.each([
    [
      'native code',
      offload(
        function (this: Reporting) {
          const { pbkdf2Sync } = require('node:crypto');
          this.progress(1);
          pbkdf2Sync('secret', 'salt', 1e8, 64, 'sha512');
        },
        { pool },
      ),
    ],
    [
      'a loop after an await',
      offload(
        async function (this: Reporting) {
          await null;
          this.progress(1);
          for (;;);
        },
        { pool },
      ),
    ],
    [
      'a task that traps SIGINT and SIGTERM',
      offload(
        async function (this: Reporting) {
          for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => {});
          this.progress(1);
          await new Promise(() => setInterval(() => {}, 1000));
        },
        { pool },
      ),
    ],
    [
      'a stopped process',
      offload(
        function (this: Reporting) {
          this.progress(1);
          process.kill(process.pid, 'SIGSTOP');
          for (;;);
        },
        { pool },
      ),
    ],
  ])('%s', async (_, run) => {
    const before = await pidOf();
    // What it does after it has told may still wait for its turn.
    const { error, reason, pid } = await abortOnceRunning(run, 100);
    expect(error).toBe(reason);
    expect(pid).not.toBe(before);
    expect(isAlive(before)).toBe(false);
  });
});

describe("reclaim: 'kill'", () => {
  it('ends the process at once and has another ready ahead of need', async () => {
    const spin = offload(
      () => {
        for (;;);
      },
      { pool, reclaim: 'kill', timeout: 30 },
    );
    const before = await pidOf();
    const [successor] = await forkedDuring(async (forked) => {
      await expect(spin()).rejects.toMatchObject({ code: 'ERR_UNBLOCK_TIMEOUT', status: 504, timeout: 30 });
      await until(() => forked.length === 1);
      expect(isAlive(before)).toBe(false);
    });
    expect(await pidOf()).toBe(successor?.pid);
  });
});

it('ends, with the worker, the processes that its task has started', async () => {
  const wait = offload(
    async function (this: Reporting) {
      const { spawn } = await import('node:child_process');
      const child = spawn(process.execPath, ['-e', 'setInterval(() => {}, 1000)']);
      this.progress(child.pid);
      await new Promise((resolve) => child.once('exit', resolve));
    },
    { pool },
  );
  const stop = new AbortController();
  const started = new Promise<number>((resolve) => {
    wait
      .with({ signal: stop.signal, onProgress: resolve })()
      .catch(() => {});
  });
  const child = await started;
  expect(isAlive(child)).toBe(true);
  stop.abort();
  await untilGone(child);
  expect(await pidOf()).toBeGreaterThan(0);
});

describe('a task that listens for its abort', () => {
  it('may end by itself, and its worker lives on', async () => {
    const heard = offload(
      async function (this: Reporting & { signal: AbortSignal }) {
        const told = new Promise((resolve) => this.signal.addEventListener('abort', resolve));
        this.progress(1);
        await told;
      },
      { pool },
    );
    const before = await pidOf();
    const { error, reason, pid } = await abortOnceRunning(heard);
    expect(error).toBe(reason);
    expect(pid).toBe(before);
  });

  it('may hand its signal on', async () => {
    const heard = offload(
      async function (this: Reporting & { signal: AbortSignal }) {
        const any = AbortSignal.any([this.signal, AbortSignal.timeout(60_000)]);
        const told = new Promise((resolve) => any.addEventListener('abort', resolve));
        this.progress(1);
        await told;
        process.title = 'heard';
      },
      { pool },
    );
    await abortOnceRunning(heard);
    expect(await offload(() => process.title, { pool })()).toBe('heard');
  });

  it('hears why', async () => {
    const listening = offload(
      async function (this: Reporting & { signal: AbortSignal }) {
        const told = new Promise((resolve) => this.signal.addEventListener('abort', resolve));
        this.progress('waiting');
        await told;
        process.title = String((this.signal.reason as Error).message);
      },
      { pool },
    );
    const titleOf = offload(() => process.title, { pool });
    const { reason } = await abortOnceRunning(listening);
    expect(await titleOf()).toBe(reason.message);
  });
});

it('an interrupt in the middle of a require() leaves no half-loaded module to the next task', async () => {
  const load = () => {
    for (const name of ['node:crypto', 'node:http', 'node:zlib', 'node:https']) require(name);
    for (;;);
  };
  const use = () => typeof require('node:crypto').pbkdf2Sync + typeof require('node:https').request;
  for (let ms = 1; ms <= 12; ms++) {
    await using fresh = createPool({ workers: 1 });
    await fresh.ready();
    await offload(() => 1, { pool: fresh })();
    await offload(load, { pool: fresh, timeout: ms })().catch(() => {});
    expect(await offload(use, { pool: fresh })()).toBe('functionfunction');
  }
}, 60_000);

it('nor in the middle of loading a global', async () => {
  const load = () => {
    for (const use of [() => performance.now(), () => crypto.subtle, () => new Blob(['']), () => new Response('')])
      use();
    for (;;);
  };
  const use = () => [performance.now() > 0, typeof crypto.subtle, typeof Blob, typeof Response];
  for (let ms = 1; ms <= 12; ms++) {
    await using fresh = createPool({ workers: 1 });
    await fresh.ready();
    await offload(load, { pool: fresh, timeout: ms })().catch(() => {});
    expect(await offload(use, { pool: fresh })()).toEqual([true, 'object', 'function', 'function']);
  }
}, 60_000);

it.each([
  [
    'a library that is already loaded',
    (fresh: WorkerPool) => {
      const use = offload((file: string) => require(file).use(), { pool: fresh });
      return { with: (options: CallOptions) => () => use.with(options)(fixture('lazy.cjs')) };
    },
  ],
  [
    'an offloaded module',
    (fresh: WorkerPool) =>
      offload.module<{ use(): string[] }>(fixture('lazy.cjs'), { pool: fresh, reclaim: 'interrupt' }).use,
  ],
])('nor does one in the middle of what %s loads later', async (_, usedIn) => {
  await using fresh = createPool({ workers: 1 });
  await offload((file: string) => void require(file), { pool: fresh })(fixture('lazy.cjs'));
  const use = usedIn(fresh);
  const stop = new AbortController();
  const call = use.with({ signal: stop.signal, onProgress: () => stop.abort() })();
  await expect(call).rejects.toMatchObject({ name: 'AbortError' });
  expect(await use.with({})()).toEqual(['first', 'last']);
});
