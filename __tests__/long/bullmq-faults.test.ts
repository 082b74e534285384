import type { ChildProcess } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';
import { closePools, offload } from 'express-unblock';
import { type ConnectPoolOptions, connectPool } from 'express-unblock/bullmq';
import { describeWithRedis, end, linesOf, outcomeOf, startProcess, TestRedis, tasksUrl, Wire } from '../support/redis';
import { childrenOf, runNode, until, untilGone } from '../support/workers';

type Tasks = typeof import('../bullmq-fixtures/tasks.mjs');

jest.setTimeout(60_000);

/** Within this time a caller hears of a service that died, froze or was cut off. */
const TOLD_MS = 5000;

describeWithRedis('express-unblock/bullmq, when something dies', () => {
  let redis: TestRedis;
  let folder: string;
  let queues = 0;
  const processes: ChildProcess[] = [];

  beforeAll(async () => {
    folder = mkdtempSync(path.join(os.tmpdir(), 'bullmq-faults-'));
    redis = await TestRedis.start();
  });

  afterAll(async () => {
    await closePools({ grace: 0 });
    await Promise.all(processes.map((child) => end(child)));
    await redis.stop();
    rmSync(folder, { recursive: true });
  });

  async function startService(options: object): Promise<ChildProcess> {
    const child = await startProcess('service.mjs', { connection: redis.url, workers: 1, ...options });
    processes.push(child);
    return child;
  }

  function connect(options: Partial<ConnectPoolOptions>) {
    const pool = connectPool({ connection: redis.url, ...options });
    return { pool, tasks: offload.module<Tasks>(tasksUrl, { pool }) };
  }

  const newQueue = () => `faults-${++queues}`;
  const fileOf = (name: string) => path.join(folder, name);
  const begins = (file: string) => linesOf(file).filter((line) => line.endsWith(' begin')).length;
  const lastTrace = (file: string) => Number(linesOf(file).at(-1));

  // Each takes seconds of waiting for what others find out: they take them together.
  const scenarios = {
    async killed() {
      const queue = newQueue();
      const file = fileOf('killed');
      const service = await startService({ queue });
      const { pool, tasks } = connect({ queue });
      await pool.ready();
      const call = outcomeOf(tasks.mark(file, 'x', 60_000));
      await until(() => begins(file) === 1);
      const other = await startService({ queue });
      const busy = outcomeOf(tasks.spin(60_000)); // Whoever finds it has no worker to spare.
      const workers = childrenOf(service.pid as number);
      const killedAt = performance.now();
      await end(service);
      const { code } = await call;
      const toldAfter = performance.now() - killedAt;
      await untilGone(...workers);
      await end(other);
      const { code: orphan } = await busy;
      const refused = await outcomeOf(tasks.echo(1));
      return { code, toldAfter, begins: begins(file), orphan, refused };
    },
    async idempotent() {
      const queue = newQueue();
      const file = fileOf('idempotent');
      const service = await startService({ queue });
      const { pool, tasks } = connect({ queue, idempotent: ['slowAtFirst'] });
      await pool.ready();
      const call = outcomeOf(tasks.slowAtFirst(file, 'x'));
      await until(() => begins(file) === 1);
      await startService({ queue });
      await end(service);
      return { ...(await call), begins: begins(file) };
    },
    async frozen() {
      const queue = newQueue();
      const file = fileOf('frozen');
      const service = await startService({ queue });
      const { pool, tasks } = connect({ queue });
      await pool.ready();
      const call = outcomeOf(tasks.mark(file, 'x', 60_000));
      await until(() => begins(file) === 1);
      await startService({ queue });
      const frozenAt = performance.now();
      service.kill('SIGSTOP');
      const { code } = await call;
      const toldAfter = performance.now() - frozenAt;
      service.kill('SIGCONT');
      await until(() => pool.stats().workers === 2);
      const after = await Promise.all([tasks.echo(1), tasks.echo(2), tasks.echo(3)]);
      return { code, toldAfter, after, begins: begins(file), ends: linesOf(file).length - begins(file) };
    },
    async cutOff() {
      const queue = newQueue();
      const file = fileOf('cut-off');
      const wire = await Wire.to(redis.port);
      await startService({ queue, connection: wire.url });
      const { pool, tasks } = connect({ queue });
      await pool.ready();
      const call = outcomeOf(tasks.burn(file, 60_000));
      await until(() => linesOf(file).length > 0);
      await startService({ queue });
      wire.isHole = true;
      const cutAt = Date.now();
      const { code } = await call;
      const toldAfter = Date.now() - cutAt;
      await wait(1500);
      const ranFor = lastTrace(file) - cutAt;
      wire.isHole = false;
      wire.cut();
      await until(() => pool.stats().workers === 2);
      const after = await Promise.all([tasks.spin(300), tasks.spin(300)]);
      wire.close();
      return { code, toldAfter, ranFor, after };
    },
    async callerDies() {
      const queue = newQueue();
      const [burning, waiting] = [fileOf('burning'), fileOf('waiting')];
      await startService({ queue, reclaim: 'interrupt' });
      const caller = await startProcess('caller.mjs', { connection: redis.url, queue });
      const { pool, tasks } = connect({ queue });
      caller.send({ calls: 1, name: 'burn', args: [burning, 60_000] });
      await until(() => linesOf(burning).length > 0);
      caller.send({ calls: 50, name: 'mark', args: [waiting, '#', 1] });
      await until(() => pool.stats().queued === 50);
      const diedAt = Date.now();
      await end(caller);
      const next = await tasks.echo('next');
      return { ranFor: lastTrace(burning) - diedAt, next, begins: begins(waiting) };
    },
  };
  const results = {} as { [Name in keyof typeof scenarios]: Awaited<ReturnType<(typeof scenarios)[Name]>> };

  beforeAll(async () => {
    await Promise.all(
      Object.entries(scenarios).map(async ([name, run]) => {
        Object.assign(results, { [name]: await run() });
      }),
    );
  });

  it('a call whose service is killed ends in WORKER_DIED, is never run again, and no worker is left', () => {
    const { code, toldAfter, begins } = results.killed;
    expect({ code, begins }).toEqual({ code: 'ERR_UNBLOCK_WORKER_DIED', begins: 1 });
    expect(toldAfter).toBeLessThan(TOLD_MS);
  });

  it('a call whose service was the last is told, and new ones are refused at once', () => {
    expect(results.killed.orphan).toBe('ERR_UNBLOCK_WORKER_DIED');
    expect(results.killed.refused.code).toBe('ERR_UNBLOCK_UNREACHABLE');
    expect(results.killed.refused.ms).toBeLessThan(500);
  });

  it('an idempotent one runs once more', () => {
    expect(results.idempotent).toMatchObject({ value: 'x', begins: 2 });
  });

  it('a service that freezes is taken for dead, and begins nothing twice when it goes on', () => {
    const { toldAfter, ...rest } = results.frozen;
    expect(rest).toEqual({ code: 'ERR_UNBLOCK_WORKER_DIED', after: [1, 2, 3], begins: 1, ends: 0 });
    expect(toldAfter).toBeLessThan(TOLD_MS);
  });

  it('a service that cannot hear Redis stops its own work, and serves again when it can', () => {
    const { toldAfter, ranFor, ...rest } = results.cutOff;
    expect(rest).toEqual({ code: 'ERR_UNBLOCK_WORKER_DIED', after: [300, 300] });
    expect(toldAfter).toBeLessThan(TOLD_MS);
    expect(ranFor).toBeLessThan(TOLD_MS);
  });

  it('what a web process had under way stops soon after its death, and what it had waiting never begins', () => {
    const { ranFor, ...rest } = results.callerDies;
    expect(rest).toEqual({ next: 'next', begins: 0 });
    expect(ranFor).toBeLessThan(10_000);
  });

  it('an idle pool keeps no process alive, whether Redis is there or not', async () => {
    const idle = (url: string) =>
      runNode(
        '--input-type=module',
        '--eval',
        `import { offload } from 'express-unblock';
         import { connectPool } from 'express-unblock/bullmq';
         const pool = connectPool({ connection: '${url}', queue: 'nobody' });
         const tasks = offload.module(new URL('${tasksUrl.href}'), { pool });
         await tasks.echo(1).catch(({ code }) => console.log(code));`,
      );
    const ended = await Promise.all(['redis://127.0.0.1:1', redis.url].map(idle));
    expect(ended).toMatchObject(Array(2).fill({ code: 0, stdout: 'ERR_UNBLOCK_UNREACHABLE\n', stderr: '' }));
  });
});
