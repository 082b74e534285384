import type { ChildProcess } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';
import { type CallOptions, closePools, type Offloaded, offload } from 'express-unblock';
import { type ConnectPoolOptions, connectPool } from 'express-unblock/bullmq';
import { describeWithRedis, end, linesOf, outcomeOf, startProcess, TestRedis, tasksUrl, Wire } from '../support/redis';
import { until } from '../support/workers';

type Tasks = typeof import('../bullmq-fixtures/tasks.mjs');

jest.setTimeout(180_000);

/** A call of `hold` that has begun. */
async function begun(call: Offloaded<[ms: number], number>['with'], options: CallOptions, ms: number) {
  let onProgress = () => {};
  const hasBegun = new Promise<void>((resolve) => {
    onProgress = resolve;
  });
  const end = outcomeOf(call({ ...options, onProgress })(ms));
  await hasBegun;
  return { end };
}

function controlled() {
  const controller = new AbortController();
  return { signal: controller.signal, abort: () => controller.abort(new Error('left')) };
}

describeWithRedis('express-unblock/bullmq, in the long run', () => {
  let redis: TestRedis;
  let folder: string;
  let processes: ChildProcess[] = [];

  beforeEach(async () => {
    folder = mkdtempSync(path.join(os.tmpdir(), 'bullmq-long-'));
    redis = await TestRedis.start();
  });

  afterEach(async () => {
    await closePools({ grace: 0 });
    await Promise.all(processes.map((child) => end(child)));
    processes = [];
    await redis.stop();
    rmSync(folder, { recursive: true });
  });

  async function startService(options: object = {}, execArgv: string[] = []): Promise<ChildProcess> {
    const given = { connection: redis.url, queue: 'q', workers: 1, reclaim: 'interrupt', ...options };
    const child = await startProcess('service.mjs', given, execArgv);
    processes.push(child);
    return child;
  }

  async function connect(options: Partial<ConnectPoolOptions> = {}) {
    const pool = connectPool({ connection: redis.url, queue: 'q', ...options });
    await pool.ready();
    return { pool, tasks: offload.module<Tasks>(tasksUrl, { pool }) };
  }

  const fileOf = (name: string) => path.join(folder, name);
  const begins = (file: string) => linesOf(file).filter((line) => line.endsWith(' begin'));
  const count = (codes: (string | undefined)[]) =>
    Object.fromEntries(codes.map((code) => [String(code), codes.filter((one) => one === code).length]));

  it('10,000 calls that wait and are given up leave nothing in Redis, and none begins', async () => {
    await startService();
    const { pool, tasks } = await connect({ maxQueue: 20_000 });
    const state = () =>
      redis.ask(async (client) => ({
        memory: Number(/used_memory:(\d+)/.exec(await client.info('memory'))?.[1]),
        keys: (await client.keys('*')).sort(),
      }));
    const file = fileOf('marks');
    for (let n = 0; n < 100; n++) await tasks.echo(n);
    await wait(1000);
    const before = await state();
    for (let round = 0; round < 2; round++) {
      const { signal, abort } = controlled();
      const occupation = controlled();
      const busy = await begun(tasks.hold.with, { signal: occupation.signal, timeout: 100_000 }, 100_000);
      const call = tasks.mark.with({ signal, timeout: 120_000 });
      const calls: ReturnType<typeof outcomeOf>[] = [];
      // Not all at once: on a busy machine, Redis would answer nobody else for seconds.
      while (calls.length < 10_000) {
        for (let n = 0; n < 500; n++) calls.push(outcomeOf(call(file, String(n), 0)));
        await until(() => pool.stats().queued === calls.length, 60_000);
      }
      const abortedAt = performance.now();
      abort();
      const codes = (await Promise.all(calls)).map(({ code }) => code);
      expect(performance.now() - abortedAt).toBeLessThan(5000);
      expect(count(codes)).toEqual({ left: 10_000 });
      await until(() => pool.stats().queued === 0, 60_000);
      occupation.abort();
      expect((await busy.end).code).toBe('left');
      expect(await tasks.echo('next')).toBe('next');
    }
    await pool.close();
    expect(begins(file)).toEqual([]);
    await wait(1500);
    const after = await state();
    expect(after.keys.length).toBeLessThanOrEqual(before.keys.length);
    expect(after.memory - before.memory).toBeLessThan(1_000_000);
  });

  it('calls whose add() lost its answer go on where they have arrived, and begin once', async () => {
    const wire = await Wire.to(redis.port);
    await startService();
    const near = await connect();
    const { pool, tasks } = await connect({ connection: wire.url });
    const file = fileOf('marks');
    const codes: (string | undefined)[] = [];
    for (let n = 0; n < 10; n++) {
      const busy = await begun(near.tasks.hold.with, {}, 500);
      wire.losesAnswerTo = 'mark';
      const { code, ms } = await outcomeOf(tasks.mark(file, String(n), 0));
      wire.losesAnswerTo = undefined;
      codes.push(code);
      expect(ms).toBeLessThan(5000);
      await busy.end;
      while ((await outcomeOf(tasks.echo(1))).code !== undefined) await wait(20);
    }
    expect(wire.cuts).toBe(10);
    expect(count(codes)).toEqual({ undefined: 10 });
    expect(new Set(begins(file)).size).toBe(10);
    expect(begins(file)).toHaveLength(10);
    wire.close();
    await pool.close();
  });

  it.each([
    ['forgets all', []],
    ['remembers most', ['--appendonly', 'yes', '--appendfsync', 'everysec']],
  ])('a Redis that is killed and %s: calls are told within 5 s, and nothing begins twice', async (_, args) => {
    await redis.stop();
    redis = await TestRedis.start(...args);
    await startService({ workers: 2 });
    const { pool, tasks } = await connect();
    const file = fileOf('marks');
    for (let round = 0; round < 3; round++) {
      const calls = Array.from({ length: 12 }, (_, n) => outcomeOf(tasks.mark(file, `${round}-${n}`, 300)));
      await until(() => begins(file).length > round * 12);
      await wait(100);
      await redis.kill();
      const killedAt = performance.now();
      const refused = await outcomeOf(tasks.echo(1));
      expect(refused.code).toBe('ERR_UNBLOCK_UNREACHABLE');
      expect(refused.ms).toBeLessThan(500);
      await wait(500);
      await redis.restart();
      const upAt = performance.now();
      while ((await outcomeOf(tasks.echo(1))).code !== undefined) await wait(20);
      expect(performance.now() - upAt).toBeLessThan(3000);
      const outcomes = await Promise.all(calls);
      expect(performance.now() - killedAt).toBeLessThan(7000);
      for (const { code } of outcomes) {
        expect([undefined, 'ERR_UNBLOCK_UNREACHABLE', 'ERR_UNBLOCK_WORKER_DIED']).toContain(code);
      }
      await wait(1000);
    }
    expect(new Set(begins(file)).size).toBe(begins(file).length);
    await pool.close();
  });

  it('a Redis that hangs: shortly, and calls go on; for long, and they are told', async () => {
    await startService();
    const { pool, tasks } = await connect();
    for (const [ms, code] of [
      [1500, undefined],
      [9000, 'ERR_UNBLOCK_UNREACHABLE'],
    ] as const) {
      const call = await begun(tasks.hold.with, {}, 400);
      redis.signal('SIGSTOP');
      const again = setTimeout(() => redis.signal('SIGCONT'), ms);
      const outcome = await call.end;
      expect(outcome.code).toBe(code);
      expect(outcome.ms).toBeLessThan(7000);
      clearTimeout(again);
      redis.signal('SIGCONT');
      while ((await outcomeOf(tasks.echo(1))).code !== undefined) await wait(20);
    }
    await pool.close();
  });

  it('rolling deploys lose no call: SIGTERM lets a service finish what it has begun', async () => {
    let services = [await startService(), await startService()];
    const { pool, tasks } = await connect();
    const file = fileOf('marks');
    let isOver = false;
    const codes: (string | undefined)[] = [];
    let made = 0;
    const load = Promise.all(
      Array.from({ length: 4 }, async () => {
        while (!isOver) codes.push((await outcomeOf(tasks.mark(file, String(++made), 20))).code);
      }),
    );
    for (let n = 0; n < 4; n++) {
      const next = await startService();
      const [oldest, newest] = services as [ChildProcess, ChildProcess];
      await end(oldest, 'SIGTERM');
      expect(oldest.exitCode).toBe(0);
      services = [newest, next];
    }
    isOver = true;
    await load;
    expect(count(codes)).toEqual({ undefined: made });
    expect(begins(file)).toHaveLength(made);
    await pool.close();
  });

  it.each([-1, 1])("no machine's wall clock counts: a service's is off by %i h", async (hours) => {
    const shift = `data:text/javascript,const { now } = Date; Date.now = () => now() + ${hours * 3_600_000};`;
    await startService({}, ['--import', shift]);
    const { pool, tasks } = await connect();
    expect(await tasks.echo.with({ timeout: 2000 })('in time')).toBe('in time');
    const { code, ms } = await outcomeOf(tasks.forever.with({ timeout: 400 })());
    expect(code).toBe('ERR_UNBLOCK_TIMEOUT');
    expect(ms).toBeLessThan(1500);
    expect(await tasks.spin(4000)).toBe(4000); // Longer than a lock.
    await pool.close();
  });

  it('ioredis 5 and 6 understand each other', async () => {
    const ioredis5 = `data:text/javascript,import Module from 'node:module';
      const { _resolveFilename } = Module;
      Module._resolveFilename = function (name, ...rest) {
        return Reflect.apply(_resolveFilename, this, [name === 'ioredis' ? 'ioredis5' : name, ...rest]);
      };`;
    await startService({}, ['--import', ioredis5]);
    const caller = await startProcess('caller.mjs', { connection: redis.url, queue: 'q' }, ['--import', ioredis5]);
    processes.push(caller);
    const answered = new Promise((resolve) => caller.once('message', resolve));
    caller.send({ calls: 3, name: 'echo', args: ['#'] });
    expect(await answered).toEqual(['0', '1', '2']);
    const { pool, tasks } = await connect();
    const seen: unknown[] = [];
    expect(await tasks.steps.with({ onProgress: (value) => seen.push(value) })(3)).toBe(3);
    expect(seen).toContainEqual({ step: 3 });
    await expect(tasks.forever.with({ timeout: 200 })()).rejects.toMatchObject({ code: 'ERR_UNBLOCK_TIMEOUT' });
    expect(await tasks.echo('free')).toBe('free');
    await pool.close();
  });

  it('under overload work is done for those who can still have it in time', async () => {
    await startService();
    const { pool, tasks } = await connect();
    await tasks.spin(50);
    const calls: ReturnType<typeof outcomeOf>[] = [];
    for (const end = performance.now() + 8000; performance.now() < end; await wait(25)) {
      calls.push(outcomeOf(tasks.spin.with({ timeout: 1000 })(50))); // Twice what one worker can do.
    }
    const codes = (await Promise.all(calls)).map(({ code }) => code);
    // By deadline alone, nearly all are begun just before their time is over.
    expect(codes.filter((code) => code === undefined).length / codes.length).toBeGreaterThan(0.25);
    await pool.close();
  });

  it('an abort whose message is lost stops the work all the same', async () => {
    const wire = await Wire.to(redis.port);
    await startService({ connection: wire.url });
    const { pool, tasks } = await connect();
    const file = fileOf('trace');
    const { signal, abort } = controlled();
    const call = outcomeOf(tasks.burn.with({ signal })(file, 60_000));
    await until(() => linesOf(file).length > 0);
    wire.losesAnswerTo = 'PING'; // Only on the connection that hears the messages.
    wire.cut();
    abort();
    const abortedAt = Date.now();
    expect((await call).code).toBe('left');
    wire.losesAnswerTo = undefined;
    await wait(3000);
    expect(Number(linesOf(file).at(-1)) - abortedAt).toBeLessThan(2500);
    wire.close();
    await pool.close();
  });
});
