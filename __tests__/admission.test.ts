import { tracingChannel } from 'node:diagnostics_channel';
import express from 'express';
import { closePools, createPool, type OffloadOptions, offload, problemDetails, timeout } from 'express-unblock';
import request from 'supertest';
import { Admission, type AdmittedCall, backlog } from '../lib/pool/admission';
import { fixture } from './support/workers';

afterAll(() => closePools({ grace: 0 }));

describe('what is decided of a call', () => {
  /** Learnt from a function that takes a millisecond for each unit of size, and 10% more or less. */
  function trained({ runs = 40, mode = 'enforce' as 'enforce' | 'observe' } = {}) {
    const admission = new Admission('task', mode, 1000);
    for (let n = 0; n < runs; n++) admission.times.add(10 + 20 * n, (10 + 20 * n) * (0.9 + 0.1 * (n % 3)), true, 0);
    return admission;
  }

  function callOf(size: number, { madeAt = 0, limit = 1000 } = {}): AdmittedCall & { endsAt: number } {
    const endsAt = madeAt + limit;
    return { size, madeAt, endsAt, deadlineAt: endsAt, startedAt: undefined, expectedMs: size, verdict: undefined };
  }

  it('refuses for its size what no worker has done in time, with what it manages', () => {
    const admission = trained();
    expect(admission.refusal(callOf(2000), 0, 0)).toMatchObject({
      code: 'ERR_UNBLOCK_TOO_SLOW',
      status: 413,
      expose: true,
      limit: 1000,
      size: 2000,
      manages: admission.times.manages(1000, 0),
      message: 'An input of size 2000 takes longer than the time limit of 1000 ms',
    });
    expect(admission.times.manages(1000, 0)).toBeGreaterThan(500);
    expect(admission.times.manages(1000, 0)).toBeLessThan(1000);
  });

  it('refuses for the backlog what could not be done behind it, with the seconds until there is room', () => {
    const admission = trained();
    expect(admission.refusal(callOf(500), 400, 0)).toBe(undefined);
    expect(admission.refusal(callOf(500), 600, 0)).toMatchObject({
      code: 'ERR_UNBLOCK_OVERLOADED',
      status: 503,
      retryAfter: 1,
      headers: { 'Retry-After': '1' },
    });
    expect(admission.refusal(callOf(10), 2400, 0)).toMatchObject({ retryAfter: 3, headers: { 'Retry-After': '3' } });
  });

  it('lets a call that is longer than most wait for less, and one like the others for all of its limit', () => {
    const varied = trained();
    expect(varied.refusal(callOf(100), 890, 0)).toBe(undefined);
    expect(varied.refusal(callOf(700), 290, 0)).toMatchObject({ code: 'ERR_UNBLOCK_OVERLOADED' });
    expect(varied.refusal(callOf(700), 0, 0)).toBe(undefined);
    const alike = new Admission('task', 'enforce', 1000);
    for (let n = 0; n < 40; n++) alike.times.add(700, 690 + 10 * (n % 3), true, 0);
    expect(alike.refusal(callOf(700), 290, 0)).toBe(undefined);
  });

  it('refuses nothing for the backlog while a worker is idle', () => {
    expect(trained().refusal(callOf(1000), 0, 0)).toBe(undefined);
  });

  it('refuses nothing before the tenth run, nor long after the last', () => {
    expect(trained({ runs: 9 }).refusal(callOf(1e6), 5000, 0)).toBe(undefined);
    expect(trained({ runs: 11 }).refusal(callOf(1e6), 5000, 0)).toBeInstanceOf(Error);
    expect(trained({ runs: 11 }).refusal(callOf(1e6, { madeAt: 60_000 }), 5000, 60_000)).toBe(undefined);
  });

  it('refuses at its turn what has waited in vain, and not what was just made or whose deadline was moved', () => {
    const admission = trained();
    const waited = callOf(500);
    expect(admission.refusalAtTurn(waited, 700, 400)).toBe(undefined);
    expect(admission.refusalAtTurn(callOf(500, { madeAt: 600, limit: 400 }), 700, 600)).toBe(undefined);
    waited.endsAt = 1200;
    expect(admission.refusalAtTurn(waited, 700, 600)).toBe(undefined);
    waited.endsAt = 1000;
    expect(admission.refusalAtTurn(waited, 700, 600)).toMatchObject({ code: 'ERR_UNBLOCK_OVERLOADED', retryAfter: 1 });
    expect(waited.verdict).toBe('wait');
  });

  it('has what is refused for its size run all the same on an idle worker, once in 50 limits', () => {
    const admission = trained({ runs: 100 });
    const isRun = (now: number, startsIn = 0) =>
      admission.refusal(callOf(1e6, { madeAt: now }), startsIn, now) === undefined;
    expect([isRun(0), isRun(49_000), isRun(50_000, 1), isRun(50_001), isRun(50_002), isRun(99_000)]).toEqual([
      false,
      false,
      false,
      true,
      false,
      false,
    ]);
    admission.count({ ...callOf(1e6), verdict: 'check' }, false);
    expect(admission.stats()).toMatchObject({ refused: { size: 5 }, checks: { calls: 1, inTime: 0 }, runs: 1 });
  });

  it('checks the next as well when one was done in time after all', () => {
    const admission = trained({ runs: 100 });
    const refused = (now: number) => {
      const call = callOf(1e6, { madeAt: now });
      const error = admission.refusal(call, 0, now);
      if (error === undefined) admission.count(call, true);
      return error !== undefined;
    };
    expect([refused(0), refused(50_000), refused(50_001), refused(50_002)]).toEqual([true, false, false, false]);
    expect(admission.stats().checks).toEqual({ calls: 3, inTime: 3 });
  });

  it('only counts what it would have refused when it observes, and how many of those were done in time', () => {
    const admission = trained({ mode: 'observe' });
    const calls = [callOf(2000), callOf(500), callOf(10)];
    const decided = calls.map((call, n) => admission.refusal(call, [0, 800, 0][n] as number, 0));
    expect(decided).toEqual([undefined, undefined, undefined]);
    expect(calls.map(({ verdict }) => verdict)).toEqual(['size', 'backlog', undefined]);
    for (const call of calls) admission.count(call, call.size < 1000);
    expect(admission.stats()).toMatchObject({
      refused: { size: 0, backlog: 0, wait: 0 },
      wouldRefuse: { calls: 2, inTime: 1 },
      checks: { calls: 0, inTime: 0 },
    });
  });

  it('takes for the backlog what still has to run of what runs, and what waits with an earlier deadline', () => {
    const running = { ...callOf(300, { madeAt: -100 }), startedAt: -100 };
    const longer = { ...callOf(10, { madeAt: -400 }), startedAt: -400 };
    const waiting = [callOf(200), callOf(5000, { limit: 900 }), callOf(100, { limit: 3000 })];
    expect(backlog([running], 1000, 1, 0)).toBe(200);
    expect(backlog([longer], 1000, 1, 0)).toBe(100);
    expect(backlog([running, longer, ...waiting], 1000, 2, 0)).toBe((200 + 100 + 200 + 900) / 2);
    expect(backlog([callOf(200, { madeAt: -2000 })], 1000, 1, 0)).toBe(0);
    expect(backlog([{ ...callOf(200), verdict: 'backlog' }], 1000, 1, 0)).toBe(0);
  });
});

/** A function that takes as many milliseconds as its argument says, on a worker of its own. */
async function trained(options: Partial<OffloadOptions<[number]>> = {}, runs = 12, sizes = [20, 40, 80]) {
  const pool = createPool({ workers: 1 });
  const run = offload((ms: number) => new Promise<number>((resolve) => setTimeout(resolve, ms, ms)), {
    pool,
    size: (ms) => ms,
    ...options,
  });
  const teach = run.with({ timeout: '30s' });
  for (let n = 0; n < runs; n++) await teach(sizes[n % sizes.length] as number);
  return { run, pool, figures: () => pool.stats().functions[0], [Symbol.asyncDispose]: () => pool.close({ grace: 0 }) };
}

/** What has become of a promise by now, without waiting for anything but what is settled already. */
function sofar(promise: Promise<unknown>): Promise<unknown> {
  const pending = new Promise((resolve) => setImmediate(resolve, 'pending'));
  return Promise.race([promise.catch((error) => error.code), pending]);
}

describe('an offloaded function with `size`', () => {
  it('refuses an input that takes too long before anything is done for it, and says what it manages', async () => {
    await using task = await trained();
    const call = task.run.with({ timeout: 2000 })(1e9);
    expect(await sofar(call)).toBe('ERR_UNBLOCK_TOO_SLOW');
    await expect(call).rejects.toMatchObject({ status: 413, limit: 2000, size: 1e9 });
    expect(task.pool.stats()).toMatchObject({ refused: 1, completed: 12, queued: 0, busy: 0 });
    expect(task.figures()).toMatchObject({ runs: 12, refused: { size: 1, backlog: 0, wait: 0 } });
    expect(task.figures()?.certainty).toBeGreaterThan(0.5);
  });

  it('takes everything before it has seen ten runs', async () => {
    await using task = await trained({}, 9);
    await expect(task.run.with({ timeout: 50 })(1e9)).rejects.toMatchObject({ code: 'ERR_UNBLOCK_TIMEOUT' });
    expect(task.figures()).toMatchObject({ refused: { size: 0, backlog: 0, wait: 0 } });
  });

  it('refuses for the backlog at once, and runs what it has admitted', async () => {
    await using task = await trained();
    const calls = Array.from({ length: 60 }, () => task.run.with({ timeout: 1000 })(40));
    const codes = await Promise.all(calls.map(sofar));
    expect(codes[0]).toBe('pending');
    expect(codes.at(-1)).toBe('ERR_UNBLOCK_OVERLOADED');
    await expect(calls.at(-1)).rejects.toMatchObject({ status: 503, retryAfter: 1 });
    expect(await calls[0]).toBe(40);
    await Promise.allSettled(calls);
    expect(task.figures()?.refused.backlog).toBeGreaterThan(20);
  });

  it('refuses at its turn what others left too little time for, unless its deadline was moved meanwhile', async () => {
    await using task = await trained();
    // Of a function that has never run, nothing is known of how long it keeps a worker.
    const blocker = offload(
      function block(ms: number) {
        return new Promise((resolve) => setTimeout(resolve, ms));
      },
      { pool: task.pool },
    );
    const outcome = async (move: boolean) => {
      const app = express().get('/', timeout(2000), (req, res, next) => {
        const blocked = blocker(500);
        req.deadline.extend(650);
        task.run(300).then((ms) => res.json(ms), next);
        if (move) req.deadline.extend(9000);
        blocked.catch(() => {});
      });
      app.use(problemDetails());
      return request(app).get('/');
    };
    expect((await outcome(true)).body).toBe(300);
    const refused = await outcome(false);
    expect([refused.status, refused.body.code]).toEqual([503, 'ERR_UNBLOCK_OVERLOADED']);
    expect(task.figures()?.refused).toEqual({ size: 0, backlog: 0, wait: 1 });
  });

  it('answers 413 with limit, size and what it manages, and 503 with Retry-After', async () => {
    await using task = await trained();
    const app = express().get(
      '/:ms',
      timeout(1000),
      task.run.handler<{ ms: string }>((req) => [Number(req.params.ms)]),
    );
    app.use(problemDetails());
    const { status, body } = await request(app).get('/1000000000');
    expect(status).toBe(413);
    expect(body).toMatchObject({ code: 'ERR_UNBLOCK_TOO_SLOW', status: 413, size: 1e9 });
    expect(body.limit).toBeLessThanOrEqual(1000);
    expect(body.limit).toBeGreaterThan(500);

    const busy = express().get('/', timeout(1000), (_req, res, next) => {
      for (let n = 0; n < 60; n++) task.run(40).catch(() => {});
      task.run(40).then(() => res.end(), next);
    });
    busy.use(problemDetails());
    const refused = await request(busy).get('/');
    expect([refused.status, refused.body.code]).toEqual([503, 'ERR_UNBLOCK_OVERLOADED']);
    expect(refused.headers['retry-after']).toMatch(/^[12]$/);
  });

  it("observes: refuses nothing, and counts what it would have refused with 'observe'", async () => {
    await using task = await trained({ admission: 'observe' });
    await expect(task.run.with({ timeout: 50 })(1e9)).rejects.toMatchObject({ code: 'ERR_UNBLOCK_TIMEOUT' });
    expect(task.figures()).toMatchObject({
      refused: { size: 0, backlog: 0, wait: 0 },
      wouldRefuse: { calls: 1, inTime: 0 },
    });
  });

  it("does as if there were no size with 'off', and never asks for it", async () => {
    const size = jest.fn(() => 1);
    await using task = await trained({ admission: 'off', size });
    expect(size).not.toHaveBeenCalled();
    expect(task.run.manages('1s')).toBe(undefined);
    expect(task.pool.stats().functions).toEqual([]);
  });

  it('manages() tells the largest size that fits into a time, from runs near it', async () => {
    await using task = await trained({ timeout: '200ms' }, 12, [50, 100, 200]);
    const manages = task.run.manages(200) as number;
    expect(manages).toBeGreaterThan(5);
    expect(manages).toBeLessThan(200);
    expect(task.figures()?.manages).toBe(manages);
    expect(task.run.manages('1h')).toBe(undefined);
    expect(() => task.run.manages('soon')).toThrow('manages: time must be 1 to 2147483647 ms, got "soon"');
    expect(offload((ms: number) => ms, { pool: task.pool }).manages('1s')).toBe(undefined);
  });

  it('learns nothing from a run that failed at once, and not that a run takes less from one that was stopped', async () => {
    const pool = createPool({ workers: 1 });
    const fails = offload((ms: number) => Promise.reject(new Error(String(ms))), { pool, size: (ms) => ms });
    for (let n = 0; n < 20; n++) await fails(1000 + n).catch(() => {});
    expect(pool.stats().functions[0]).toMatchObject({ runs: 20, certainty: 0 });
    await pool.close();
  });

  it.each([
    ['NaN', () => Number.NaN, 'got NaN'],
    ['a negative number', () => -1, 'got -1'],
    ['infinity', () => Number.POSITIVE_INFINITY, 'got Infinity'],
    ['a string', () => '12', 'got "12"'],
    ['nothing', () => undefined, 'got undefined'],
    ['a BigInt', () => 12n, 'got 12n'],
    ['a promise', () => Promise.resolve(12), 'got an object'],
    ['a promise that rejects', () => Promise.reject(new Error('no size')), 'got an object'],
    [
      'what cannot be asked for its then',
      () => ({
        // biome-ignore lint/suspicious/noThenProperty: it is what is tested
        get then() {
          throw new Error('no then');
        },
      }),
      'got an object',
    ],
  ])('ends the call whose size is %s in a clear error', async (_, size, message) => {
    const pool = createPool({ workers: 1 });
    const run = offload(function measured() {}, { pool, size: size as () => number });
    await expect(run()).rejects.toMatchObject({
      code: 'ERR_UNBLOCK_BAD_OPTION',
      message: `measured: what size returns must be a number of 0 or more, ${message}`,
    });
    expect(pool.stats()).toMatchObject({ workers: 0, queued: 0 });
    await pool.close();
  });

  it('ends the call with what its size throws, and its request with a 500', async () => {
    const pool = createPool({ workers: 1 });
    const run = offload((text: string) => text, { pool, size: (text) => text.length });
    await expect(run(undefined as unknown as string)).rejects.toThrow(TypeError);
    const app = express().get(
      '/',
      run.handler(() => [undefined as unknown as string]),
    );
    app.use(problemDetails());
    expect((await request(app).get('/')).status).toBe(500);
    await pool.close();
  });

  it.each([
    [{ size: 5 }, 'offload: size must be a function, got 5'],
    [{ admission: 'on' }, 'offload: admission must be "enforce", "observe" or "off", got "on"'],
  ])('is refused with %j where it is wrapped', (options, message) => {
    expect(() => offload(() => {}, options as never)).toThrow(message);
  });

  it('tells its size, the prediction and the reason on the tracing channel', async () => {
    await using task = await trained();
    const channel = tracingChannel('express-unblock:offload');
    const told: Record<string, unknown>[] = [];
    const subscribers = {
      start() {},
      end() {},
      asyncStart() {},
      error() {},
      asyncEnd(message: object) {
        const { size, predictedMs, reason, outcome } = message as Record<string, unknown>;
        told.push({ size, predictedMs, reason, outcome });
      },
    };
    channel.subscribe(subscribers);
    try {
      await task.run(20);
      await task.run
        .with({ timeout: 2000 })(1e9)
        .catch(() => {});
    } finally {
      channel.unsubscribe(subscribers);
    }
    const predictedMs = expect.any(Number);
    expect(told).toEqual([
      { size: 20, predictedMs, reason: undefined, outcome: 'completed' },
      { size: 1e9, predictedMs, reason: 'size', outcome: 'refused' },
    ]);
    expect(told[0]?.predictedMs).toBeGreaterThan(10);
    expect(told[1]?.predictedMs).toBeGreaterThan(2000);
  });

  it('learns each export of a module for itself', async () => {
    const pool = createPool({ workers: 1 });
    const tasks = offload.module<{ double(n: number): number; count(): number }>(fixture('tasks.mjs'), {
      pool,
      size: () => 1,
    });
    await tasks.double(1);
    await tasks.count();
    expect(pool.stats().functions.map(({ name }) => name)).toEqual(['double', 'count']);
    await pool.close();
  });
});
