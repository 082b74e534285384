import { tracingChannel } from 'node:diagnostics_channel';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import type { AddressInfo } from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';
import { pathToFileURL } from 'node:url';
import express from 'express';
import { closePools, offload, problemDetails, timeout, type WorkerPool } from 'express-unblock';
import { type ConnectPoolOptions, connectPool, type ServeOptions, type Service, serve } from 'express-unblock/bullmq';
import { Redis } from 'ioredis';
import { describeWithRedis, end, linesOf, outcomeOf, startProcess, TestRedis, tasksUrl } from './support/redis';
import { runNode, until } from './support/workers';

type Tasks = typeof import('./bullmq-fixtures/tasks.mjs');

jest.setTimeout(30_000);

let redis: TestRedis;
let folder: string;
let queues = 0;
const services: Service[] = [];

function startService(options: Partial<ServeOptions> & { queue: string }): Service {
  const service = serve({ connection: redis.url, modules: [tasksUrl], workers: 1, reclaim: 'interrupt', ...options });
  services.push(service);
  return service;
}

function connect(options: Partial<ConnectPoolOptions> & { queue: string }) {
  const pool = connectPool({ connection: redis.url, ...options });
  return { pool, tasks: offload.module<Tasks>(tasksUrl, { pool }) };
}

/** A service and a pool that nobody else uses. */
async function startBoth(own: Partial<ServeOptions> = {}, callers: Partial<ConnectPoolOptions> = {}) {
  const queue = `test-${++queues}`;
  const service = startService({ ...own, queue });
  const both = connect({ ...callers, queue });
  await service.ready();
  await both.pool.ready();
  return { queue, service, ...both };
}

/** A call that computes for so long, and has begun to. */
async function begun(tasks: ReturnType<typeof connect>['tasks'], ms: number, signal?: AbortSignal) {
  let onProgress = () => {};
  const hasBegun = new Promise<void>((resolve) => {
    onProgress = resolve;
  });
  const end = tasks.hold.with({ onProgress, signal })(ms);
  await hasBegun;
  return { end };
}

describeWithRedis('express-unblock/bullmq', () => {
  let pool: WorkerPool;
  let tasks: ReturnType<typeof connect>['tasks'];
  let queue: string;

  beforeAll(async () => {
    folder = mkdtempSync(path.join(os.tmpdir(), 'bullmq-'));
    redis = await TestRedis.start();
    ({ pool, tasks, queue } = await startBoth());
  });

  afterAll(async () => {
    await closePools({ grace: 0 });
    await Promise.all(services.map((service) => service.close({ grace: 0 })));
    await redis.stop();
    rmSync(folder, { recursive: true });
  });

  describe('a call', () => {
    it('brings arguments and results as what they are', async () => {
      const value = {
        map: new Map([[{ a: 1 }, new Set([1n])]]),
        date: new Date(5),
        bytes: Buffer.from('hé'),
        floats: new Float64Array([0.5]),
        odd: [Number.NaN, -0, undefined, null],
      };
      expect(await tasks.echo(value)).toEqual(value);
      expect(await tasks.echo(undefined)).toBe(undefined);
      expect(await tasks.pid()).not.toBe(process.pid);
    });

    it('rejects with what the task threw, class, status, code and properties included', async () => {
      const error = await tasks.fail().catch((thrown) => thrown);
      expect(error).toMatchObject({ name: 'QuotaError', message: 'No more', status: 429, code: 'E_QUOTA' });
      expect(error.constructor.name).toBe('QuotaError');
      expect(error.left).toEqual(new Map([['a', 1n]]));
    });

    it('hears progress before its result, and of a flood only the latest of every 50 ms', async () => {
      const seen: number[] = [];
      const onProgress = ({ step }: { step: number }) => seen.push(step);
      const since = performance.now();
      expect(await tasks.steps.with({ onProgress })(5000)).toBe(5000);
      const periods = (performance.now() - since) / 50;
      expect(seen).toEqual(seen.toSorted((a, b) => a - b));
      expect(seen.at(-1)).toBe(5000);
      expect(seen.length).toBeLessThan(periods + 3);

      seen.length = 0;
      await tasks.slowSteps.with({ onProgress })(3, 80);
      expect(seen).toEqual([1, 2, 3]);
    });

    it('ends in WORKER_DIED when its worker dies, and the next one runs', async () => {
      const error = await tasks.die().catch((thrown) => thrown);
      expect(error).toMatchObject({ code: 'ERR_UNBLOCK_WORKER_DIED', status: 500, signal: 'SIGKILL' });
      expect(await tasks.echo('next')).toBe('next');
    });

    it('is told which exports there are', async () => {
      const call = (tasks as unknown as Record<string, () => Promise<unknown>>).nothing?.();
      await expect(call).rejects.toMatchObject({ code: 'ERR_UNBLOCK_NO_SUCH_EXPORT' });
    });

    it('is told when its module is not served', async () => {
      const file = path.join(folder, 'other.mjs');
      writeFileSync(file, 'export const other = () => 1;');
      const other = offload.module<{ other(): number }>(file, { pool });
      await expect(other.other()).rejects.toMatchObject({ code: 'ERR_UNBLOCK_NO_SUCH_MODULE', status: 500 });
    });

    it('sends no more than maxBytes: 413 for arguments, 500 for results and progress', async () => {
      const small = connect({ queue, maxBytes: '10kb' });
      await small.pool.ready();
      const limit = 10 * 1024;
      const tooLarge = { code: 'ERR_UNBLOCK_TOO_LARGE', limit, received: expect.any(Number) };
      await expect(small.tasks.echo(Buffer.alloc(limit))).rejects.toMatchObject({ ...tooLarge, status: 413 });
      await expect(small.tasks.zeros(limit)).rejects.toMatchObject({ ...tooLarge, status: 500 });
      await expect(small.tasks.big(limit)).rejects.toMatchObject({ ...tooLarge, status: 500 });
      expect(await small.tasks.zeros(limit - 100)).toEqual(Buffer.alloc(limit - 100));
      await small.pool.close();
    });

    it('is traced like one of a local pool', async () => {
      const channel = tracingChannel('express-unblock:offload');
      const told: unknown[] = [];
      const listener = { asyncEnd: (message: object) => told.push({ ...message }) };
      channel.subscribe(listener as never);
      const pid = await tasks.pid();
      await tasks.forever
        .with({ timeout: 1500 })()
        .catch(() => {});
      channel.unsubscribe(listener as never);
      const times = { queuedMs: expect.any(Number), runMs: expect.any(Number) };
      expect(told).toMatchObject([
        { task: 'pid', outcome: 'completed', pid, ...times },
        { task: 'forever', outcome: 'timedOut', pid: expect.any(Number), ...times },
      ]);
    });
  });

  describe('a call that is given up', () => {
    it('is told at once and frees its worker, whether by its signal or its time', async () => {
      const controller = new AbortController();
      const reason = new Error('enough');
      setTimeout(() => controller.abort(reason), 60);
      await expect(tasks.forever.with({ signal: controller.signal })()).rejects.toBe(reason);
      const { value, ms } = await outcomeOf(tasks.echo('free'));
      expect(value).toBe('free');
      expect(ms).toBeLessThan(2000);

      await expect(tasks.forever.with({ timeout: 60 })()).rejects.toMatchObject({
        code: 'ERR_UNBLOCK_TIMEOUT',
        timeout: 60,
      });
      expect(await tasks.echo('free')).toBe('free');
    });

    it('is told to the task, with the reason', async () => {
      const file = path.join(folder, 'reasons');
      const controller = new AbortController();
      const call = tasks.untilAborted.with({ signal: controller.signal })(file);
      await wait(100); // It listens by then; if it did not, the reason would be the same.
      controller.abort(Object.assign(new Error('mine'), { code: 'E_MINE' }));
      await expect(call).rejects.toThrow('mine');
      await until(() => linesOf(file).length > 0);
      expect(linesOf(file)).toEqual(['E_MINE']);
    });

    it('never begins if it was still waiting, and leaves no key behind', async () => {
      const { pool, tasks, queue } = await startBoth();
      await tasks.echo('warm');
      // BullMQ's own come and go with time.
      const keys = async () =>
        (await redis.ask((client) => client.keys(`*${queue}*`)))
          .filter((key: string) => !/:(stalled|stalled-check|marker)$/.test(key))
          .sort();
      await until(() => pool.stats().busy === 0);
      const before = await keys();
      const file = path.join(folder, 'never');
      const busy = tasks.spin(400);
      const controller = new AbortController();
      const waiting = Array.from({ length: 20 }, (_, n) =>
        tasks.mark.with({ signal: controller.signal })(file, String(n), 1),
      );
      await until(() => pool.stats().queued === 20);
      controller.abort(new Error('left'));
      expect(await Promise.allSettled(waiting)).toEqual(
        Array(20).fill({ status: 'rejected', reason: controller.signal.reason }),
      );
      await busy;
      await tasks.echo('after them');
      expect(linesOf(file)).toEqual([]);
      await until(() => pool.stats().busy === 0 && pool.stats().queued === 0);
      expect(await keys()).toEqual(before);
      await pool.close();
    });
  });

  describe('in an Express app', () => {
    async function serveApp(app: express.Express) {
      app.use(problemDetails());
      const server = app.listen(0, '127.0.0.1');
      await once(server, 'listening');
      const { port } = server.address() as AddressInfo;
      const close = () => {
        server.close();
        server.closeAllConnections();
      };
      return { url: `http://127.0.0.1:${port}`, close };
    }
    const lastLine = (file: string) => Number(linesOf(file).at(-1));

    it('handlers answer, and the work stops with the deadline and when the client leaves', async () => {
      const app = express();
      const files = ['deadline', 'client'].map((name) => path.join(folder, name)) as [string, string];
      app.get(
        '/echo',
        tasks.echo.handler((req) => [String(req.query.text)]),
      );
      app.get(
        '/fail',
        tasks.fail.handler(() => []),
      );
      app.get(
        '/deadline',
        timeout(2000),
        tasks.burn.handler(() => [files[0], 10_000]),
      );
      app.get(
        '/client',
        tasks.burn.handler(() => [files[1], 10_000]),
      );
      const { url, close } = await serveApp(app);

      expect(await (await fetch(`${url}/echo?text=hi`)).text()).toBe('hi');
      expect((await fetch(`${url}/fail`)).status).toBe(429);
      expect((await fetch(`${url}/deadline`)).status).toBe(504);
      const answeredAt = Date.now();
      expect(await tasks.echo('free')).toBe('free');
      expect(lastLine(files[0])).toBeLessThan(answeredAt + 1000);

      const controller = new AbortController();
      const left = fetch(`${url}/client`, { signal: controller.signal }).catch(() => {});
      await until(() => linesOf(files[1]).length > 0);
      const leftAt = Date.now();
      controller.abort();
      await left;
      expect(await tasks.echo('free')).toBe('free');
      expect(lastLine(files[1])).toBeLessThan(leftAt + 1000);
      close();
    });

    it.each(['extend', 'clear'] as const)('%s() reaches a call that waits and one that runs', async (move) => {
      const app = express();
      app.get('/', timeout(300), async (req, res) => {
        const busy = tasks.spin(450);
        const calls = [busy, tasks.spin(300)];
        setTimeout(() => (move === 'clear' ? req.deadline.clear() : req.deadline.extend(5000)), 100);
        res.json(await Promise.all(calls));
      });
      const { url, close } = await serveApp(app);
      const response = await fetch(url);
      expect([response.status, await response.json()]).toEqual([200, [450, 300]]);
      close();
    });
  });

  describe('the queue', () => {
    it('takes the nearest deadline first', async () => {
      const { pool, tasks } = await startBoth();
      const busy = await begun(tasks, 300);
      const done: string[] = [];
      const deadlines = { c: 9000, a: 3000, b: 6000, d: 20_000 };
      const calls = Object.entries(deadlines).map(async ([name, ms]) =>
        done.push(String(await tasks.echo.with({ timeout: ms })(name))),
      );
      await Promise.all([busy.end, ...calls]);
      expect(done).toEqual(['a', 'b', 'c', 'd']);
      await pool.close();
    });

    it('lets those go first that can still be done in time', async () => {
      const { pool, tasks } = await startBoth();
      await tasks.spin(700); // Known to take about that long.
      const busy = await begun(tasks, 1600);
      const done: string[] = [];
      const late = tasks.spin
        .with({ timeout: 1800 })(700)
        .then(
          () => done.push('hopeless'),
          () => {},
        );
      const other = tasks.spin
        .with({ timeout: 5000 })(50)
        .then(() => done.push('feasible'));
      await Promise.all([busy.end, late, other]);
      expect(done[0]).toBe('feasible');
      await pool.close();
    });

    it('refuses what finds no room, with Retry-After, and calls from other pools count', async () => {
      const { pool, tasks, queue } = await startBoth({}, { maxQueue: 2 });
      const outcomes = Promise.all(Array.from({ length: 5 }, () => outcomeOf(tasks.spin(600))));
      await until(() => pool.stats().queued === 2);
      const other = connect({ queue, maxQueue: 2 });
      await other.pool.ready();
      const refused: any = await other.tasks.echo(1).catch((error) => error);
      expect(refused).toMatchObject({ code: 'ERR_UNBLOCK_QUEUE_FULL', status: 503 });
      expect(refused.retryAfter).toBeGreaterThanOrEqual(1);
      const codes = (await outcomes).map(({ code }) => code);
      expect(codes.filter((code) => code === undefined)).toHaveLength(3);
      expect(codes.filter((code) => code === 'ERR_UNBLOCK_QUEUE_FULL')).toHaveLength(2);
      await Promise.all([pool.close(), other.pool.close()]);
    });

    it('with maxQueue: 0 a call runs at once or is refused', async () => {
      const { pool, tasks } = await startBoth({}, { maxQueue: 0 });
      const [one, other] = await Promise.all([outcomeOf(tasks.spin(200)), outcomeOf(tasks.spin(200))]);
      expect([one?.value, other?.code]).toEqual([200, 'ERR_UNBLOCK_QUEUE_FULL']);
      await pool.close();
    });
  });

  describe('services', () => {
    it('share the calls, and stats() counts the workers of all', async () => {
      const { pool, tasks, queue } = await startBoth();
      await startService({ queue, workers: 2 }).ready();
      await until(() => pool.stats().workers === 3);
      const calls = Array.from({ length: 5 }, () => tasks.spin(700));
      await until(() => pool.stats().busy === 3 && pool.stats().queued === 2);
      await Promise.all(calls);
      expect(pool.stats()).toMatchObject({ completed: 5, failed: 0 });
      expect(pool.stats().run.p50).toBeGreaterThan(600);
      await pool.close();
    });

    it('take no call before the worker that was killed for the one before is replaced', async () => {
      const controller = new AbortController();
      const slowly = 'data:text/javascript,await new Promise((resolve) => setTimeout(resolve, 2000))';
      const own = { reclaim: 'kill' as const, execArgv: ['--import', slowly] };
      const { pool, tasks, queue, service } = await startBoth(own);
      const { end: killed } = await begun(tasks, 60_000, controller.signal);
      await startService({ queue }).ready();
      controller.abort();
      await expect(killed).rejects.toThrow('aborted');
      const since = performance.now();
      await Promise.all([tasks.echo(1), tasks.echo(2), tasks.echo(3)]);
      expect(performance.now() - since).toBeLessThan(2000);
      expect(service.stats()).toMatchObject({ completed: 0, queued: 0 });
      await pool.close();
    });

    it('of another version are never asked', async () => {
      const { pool, tasks, queue } = await startBoth({ version: '1' }, { version: '1' });
      const newer = connect({ queue, version: '2' });
      await expect(newer.tasks.echo(1)).rejects.toMatchObject({
        code: 'ERR_UNBLOCK_UNREACHABLE',
        status: 503,
        retryAfter: 1,
      });
      expect(await tasks.echo(1)).toBe(1);
      await Promise.all([pool.close(), newer.pool.close()]);
    });

    it('may have the module elsewhere, under the name that callers know', async () => {
      const home = mkdtempSync(path.join(folder, 'home-'));
      writeFileSync(path.join(home, 'package.json'), '{"name":"shop"}');
      writeFileSync(path.join(home, 'far.mjs'), 'export const where = () => "far";');
      writeFileSync(path.join(home, 'near.mjs'), 'export const where = () => "near";');
      const queue = `test-${++queues}`;
      const modules = { 'shop/near.mjs': pathToFileURL(path.join(home, 'far.mjs')) };
      await startService({ queue, modules }).ready();
      const pool = connectPool({ connection: redis.url, queue });
      const near = offload.module<{ where(): string }>(path.join(home, 'near.mjs'), { pool });
      await pool.ready();
      expect(await near.where()).toBe('far');
      await pool.close();
    });

    it('may be in the very file that they serve: its workers serve nothing', async () => {
      const queue = `test-${++queues}`;
      const service = await startProcess('both.mjs', { connection: redis.url, queue, workers: 1 });
      const pool = connectPool({ connection: redis.url, queue });
      const both = offload.module<{ where(): unknown }>(new URL('./both.mjs', tasksUrl), { pool });
      await pool.ready();
      expect(await both.where()).toMatchObject({ isWorker: true });
      await pool.close();
      await end(service);
    });

    it('finish what they have begun when they close, and take nothing more', async () => {
      const { pool, tasks, service } = await startBoth();
      const begun = tasks.spin(500);
      await until(() => pool.stats().busy === 1);
      const closing = service.close({ grace: '5s' });
      const waiting = outcomeOf(tasks.echo(1));
      expect(await begun).toBe(500);
      await closing;
      expect((await waiting).code).toBe('ERR_UNBLOCK_UNREACHABLE');
      await expect(service.ready()).rejects.toMatchObject({ code: 'ERR_UNBLOCK_POOL_CLOSED' });
      await pool.close();
    });

    it('stop after the grace what they have begun, and the caller is told', async () => {
      const { pool, tasks, service } = await startBoth();
      const call = outcomeOf(tasks.forever());
      await until(() => pool.stats().busy === 1);
      await service.close({ grace: 100 });
      const { code, ms } = await call;
      expect(code).toBe('ERR_UNBLOCK_WORKER_DIED');
      expect(ms).toBeLessThan(5000);
      await pool.close();
    });
  });

  describe('a pool', () => {
    it('refuses functions where they are wrapped: source text in a queue is code that others could send', () => {
      expect(() => offload((n: number) => n + 1, { pool })).toThrow(
        expect.objectContaining({ name: 'TypeError', code: 'ERR_UNBLOCK_BAD_OPTION' }),
      );
    });

    it('waits for Redis with its first calls, and tells why it is not there', async () => {
      const nowhere = connectPool({ connection: 'redis://127.0.0.1:1', queue: 'q' });
      const far = offload.module<Tasks>(tasksUrl, { pool: nowhere });
      const error: any = await far.echo(1).catch((thrown) => thrown);
      expect(error).toMatchObject({ code: 'ERR_UNBLOCK_UNREACHABLE', status: 503, headers: { 'Retry-After': '1' } });
      expect(error.cause).toMatchObject({ code: 'ECONNREFUSED' });

      const first = connect({ queue });
      expect(await first.tasks.echo('first')).toBe('first');
      await Promise.all([nowhere.close(), first.pool.close()]);
    });

    it('lets its calls finish when it closes, and refuses new ones', async () => {
      const { pool, tasks } = await startBoth();
      const calls = [tasks.spin(200), outcomeOf(tasks.forever())] as const;
      const closing = pool.close({ grace: 600 });
      await expect(tasks.echo(1)).rejects.toMatchObject({ code: 'ERR_UNBLOCK_POOL_CLOSED', status: 503 });
      expect(await calls[0]).toBe(200);
      expect((await calls[1]).code).toBe('ERR_UNBLOCK_POOL_CLOSED');
      await closing;
      await expect(pool.ready()).rejects.toMatchObject({ code: 'ERR_UNBLOCK_POOL_CLOSED' });
      await until(() => pool.stats().workers === 1); // As it last was.
    });
  });

  it('serve() tells whoever runs it that Redis is away, and why', async () => {
    const { stderr } = await runNode(
      '--input-type=module',
      '--eval',
      `import { serve } from 'express-unblock/bullmq';
       const service = serve({ connection: 'redis://127.0.0.1:1', modules: [new URL('${tasksUrl.href}')], workers: 1 });
       process.once('warning', () => service.close({ grace: 0 }));`,
    );
    expect(stderr).toContain('express-unblock: serve() does not reach Redis: connect ECONNREFUSED 127.0.0.1:1');
  });

  describe('options', () => {
    const good = { connection: 'redis://localhost', queue: 'q' };
    it.each([
      [{ ...good, connection: undefined }, /connectPool: connection must be a URL/],
      [{ ...good, connection: 'localhost:6379' }, /connection must be a URL .* got "localhost:6379"/],
      [{ ...good, connection: { keyPrefix: 'x' } }, /connection must be without a keyPrefix/],
      [{ ...good, queue: 'a:b' }, /queue must be a name without/],
      [{ ...good, version: '' }, /version must be a name without/],
      [{ ...good, maxQueue: -1 }, /maxQueue must be an integer of 0 or more, got -1/],
      [{ ...good, maxBytes: 'big' }, /maxBytes must be a number of bytes/],
      [{ ...good, idempotent: 'all' }, /idempotent must be an array of names/],
      [{ ...good, workers: 1 }, /unknown option "workers"/],
    ])('of connectPool %j are refused where they are written', (options, message) => {
      expect(() => connectPool(options as never)).toThrow(
        expect.objectContaining({
          name: 'TypeError',
          code: 'ERR_UNBLOCK_BAD_OPTION',
          message: expect.stringMatching(message),
        }),
      );
    });

    it.each([
      [{ ...good, modules: [] }, /serve: modules must be file URLs/],
      [{ ...good, modules: ['./tasks.js'] }, /serve: modules must be a file URL/],
      [{ ...good, modules: { a: new URL('file:///nowhere.js') } }, /modules\["a"\] must be a module that exists/],
      [{ ...good, modules: [tasksUrl], workers: 0 }, /serve: workers must be an integer of 1 or more/],
      [{ ...good, modules: [tasksUrl], reclaim: 'no' }, /reclaim must be/],
      [{ ...good, modules: [tasksUrl], maxQueue: 1 }, /unknown option "maxQueue"/],
    ])('of serve %j are refused where they are written', (options, message) => {
      expect(() => serve(options as never)).toThrow(
        expect.objectContaining({
          name: 'TypeError',
          code: 'ERR_UNBLOCK_BAD_OPTION',
          message: expect.stringMatching(message),
        }),
      );
    });

    it('a ready client is no connection', () => {
      const client = new Redis({ lazyConnect: true });
      expect(() => connectPool({ connection: client as never })).toThrow(/connection must be a URL .* got an object/);
      client.disconnect();
    });
  });
});
