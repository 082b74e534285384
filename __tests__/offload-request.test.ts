import { tracingChannel } from 'node:diagnostics_channel';
import { once } from 'node:events';
import { type AddressInfo, connect } from 'node:net';
import express, { type NextFunction, type Request, type Response } from 'express';
import { closePools, createPool, offload, timeout } from 'express-unblock';
import request from 'supertest';
import { until } from './support/workers';

const express4: typeof express = require('express4');

const pool = createPool({ workers: 1 });
const spin = offload(
  function spin() {
    for (;;);
  },
  { pool },
);
const pidOf = offload(() => process.pid, { pool });

beforeAll(() => pool.ready());
afterAll(() => closePools({ grace: 0 }));

interface Reporting {
  progress(value: unknown): void;
}

function blockFor(ms: number): void {
  const end = performance.now() + ms;
  while (performance.now() < end);
}

describe.each([
  ['Express 4', express4],
  ['Express 5', express],
])('in %s', (_, framework) => {
  it('an error handler may still offload what it answers a passed deadline with', async () => {
    const page = offload((status: number) => `Sorry: ${status}`, { pool });
    const app = framework().get('/', timeout(30), () => {});
    app.use(async (error: Error & { status: number }, _req: Request, res: Response, _next: NextFunction) => {
      res.status(error.status).send(await page(error.status));
    });
    const { status, text } = await request(app).get('/');
    expect([status, text]).toEqual([504, 'Sorry: 504']);

    const goesOn = framework().get('/', timeout(30), () => {});
    goesOn.use((_error: Error, _req: Request, _res: Response, next: NextFunction) => next());
    goesOn.use(page.handler(() => [404]));
    expect((await request(goesOn).get('/')).text).toBe('Sorry: 404');
  });

  it('a request without a timeout() has no deadline to move, and its calls run', async () => {
    let left: number | undefined;
    const handler = pidOf.handler((req) => {
      req.deadline.extend(1);
      left = req.deadline.remaining();
      return [];
    });
    const app = framework().get('/', handler);
    expect((await request(app).get('/')).body).toBe(await pidOf());
    expect(left).toBe(Number.POSITIVE_INFINITY);
  });

  it.each([
    [{ a: 1 }, 'application/json; charset=utf-8', '{"a":1}'],
    [[1, null], 'application/json; charset=utf-8', '[1,null]'],
    [7, 'application/json; charset=utf-8', '7'],
    [false, 'application/json; charset=utf-8', 'false'],
    [null, 'application/json; charset=utf-8', 'null'],
    ['text', 'text/plain; charset=utf-8', 'text'],
    [new Uint8Array([104, 105]), 'application/octet-stream', 'hi'],
    [Buffer.from('hi'), 'application/octet-stream', 'hi'],
  ])('handler() sends %j as %s', async (value, type, body) => {
    const app = framework().get(
      '/',
      offload((what) => what, { pool }).handler(() => [value] as never),
    );
    const response = await request(app)
      .get('/')
      .buffer()
      .parse((res, done) => {
        let text = '';
        res
          .on('data', (chunk) => {
            text += chunk;
          })
          .on('end', () => done(null, text));
      });
    expect([response.status, response.headers['content-type'], response.body]).toEqual([200, type, body]);
  });

  it('handler() sends undefined as 204', async () => {
    const app = framework().get(
      '/',
      offload(() => undefined, { pool }).handler(() => []),
    );
    expect((await request(app).get('/')).status).toBe(204);
  });

  it.each([
    [
      'null',
      () => {
        throw null;
      },
    ],
    [
      'undefined',
      () => {
        throw undefined;
      },
    ],
    [
      'an empty string',
      () => {
        throw '';
      },
    ],
    [
      'route',
      () => {
        throw 'route';
      },
    ],
    [
      'router',
      async () => {
        throw 'router';
      },
    ],
  ])('handler() takes a thrown %s for the failure that it is', async (_, task) => {
    const app = framework()
      .get(
        '/',
        offload(task, { pool }).handler(() => []),
      )
      .use((error: { status: number }, _req: unknown, res: express.Response, _next: unknown) => {
        res.status(error.status).send('failed');
      });
    expect((await request(app).get('/')).status).toBe(500);
  });

  it('an http-errors error of the task answers with its status', async () => {
    const refuse = offload(
      async () => {
        const { default: createError } = await import('http-errors');
        throw createError(422, 'not a number');
      },
      { pool },
    );
    const app = framework()
      .set('env', 'test')
      .get(
        '/',
        refuse.handler(() => []),
      );
    const response = await request(app).get('/');
    expect(response.status).toBe(422);
    expect(response.text).toContain('not a number');
  });

  it('an error of pick goes to next', async () => {
    const app = framework()
      .set('env', 'test')
      .get(
        '/',
        pidOf.handler(() => {
          throw Object.assign(new Error('no text'), { status: 400, expose: true });
        }),
      );
    expect((await request(app).get('/')).status).toBe(400);
  });

  it("stops the task at the request's deadline, and its worker is free again", async () => {
    const app = framework()
      .set('env', 'test')
      .use(timeout(60))
      .get(
        '/',
        spin.handler(() => []),
      );
    const response = await request(app).get('/');
    expect(response.status).toBe(504);
    await until(() => pool.stats().busy === 0);
  });

  it('starts no task for a request whose deadline passed while the event loop was blocked', async () => {
    const log: string[] = [];
    const first = offload(
      function (this: Reporting) {
        this.progress('running');
        const end = Date.now() + 400;
        while (Date.now() < end);
        return 'first';
      },
      { pool },
    );
    const second = offload(
      function (this: Reporting) {
        this.progress('running');
        for (;;);
      },
      { pool },
    );
    const app = framework()
      .use(timeout(200))
      .get('/', (_req, res, next) => {
        second
          .with({ onProgress: () => log.push('second started') })()
          .then(() => res.end(), next);
      })
      .use((error: { code: string }, _req: unknown, res: express.Response, _next: unknown) => {
        log.push(error.code);
        res.sendStatus(504);
      });
    const busy = new Promise((resolve) =>
      first
        .with({ onProgress: resolve })()
        .then((result) => log.push(result)),
    );
    await busy;
    const answer = request(app).get('/').then();
    await until(() => pool.stats().queued === 1);
    blockFor(600);
    expect((await answer).status).toBe(504);
    await until(() => pool.stats().busy === 0);
    expect(log.sort()).toEqual(['ERR_UNBLOCK_TIMEOUT', 'first']);
  });

  it('stops a call made anywhere in the request when its client leaves', async () => {
    const { cancelled } = pool.stats();
    const ends: unknown[] = [];
    const app = framework()
      .use(timeout('1m'))
      .get('/', async (_req, res) => {
        await new Promise(setImmediate);
        spin().then(
          () => res.end(),
          (error) => ends.push(error),
        );
      });
    const server = app.listen(0);
    await once(server, 'listening');
    const socket = connect((server.address() as AddressInfo).port);
    socket.write('GET / HTTP/1.1\r\nHost: x\r\n\r\n');
    await until(() => pool.stats().busy === 1);
    socket.destroy();
    await until(() => ends.length === 1);
    expect(ends[0]).toMatchObject({ code: 'ERR_UNBLOCK_CLIENT_CLOSED', status: 499 });
    await until(() => pool.stats().busy === 0);
    expect(pool.stats().cancelled).toBe(cancelled + 1);
    server.close();
    server.closeAllConnections();
    await once(server, 'close');
  });
});

describe('the tracing channel express-unblock:offload', () => {
  it('tells task, queued and run time, outcome and pid of each call', async () => {
    const channel = tracingChannel('express-unblock:offload');
    const told: { [key: string]: unknown }[] = [];
    const subscribers = {
      start() {},
      end() {},
      asyncStart() {},
      error() {},
      asyncEnd(message: object) {
        const { task, queuedMs, runMs, outcome, pid } = message as { [key: string]: unknown };
        told.push({ task, queuedMs, runMs, outcome, pid });
      },
    };
    channel.subscribe(subscribers);
    try {
      const pid = await pidOf();
      const later = spin
        .with({ timeout: 600 })()
        .catch(() => {});
      await spin
        .with({ timeout: 20 })()
        .catch(() => {});
      await later;
      const time = expect.any(Number);
      expect(told).toEqual([
        { task: 'anonymous', queuedMs: time, runMs: time, outcome: 'completed', pid },
        { task: 'spin', queuedMs: time, runMs: undefined, outcome: 'timedOut', pid: undefined },
        { task: 'spin', queuedMs: time, runMs: time, outcome: 'timedOut', pid },
      ]);
      expect(told[1]?.queuedMs).toBeGreaterThanOrEqual(19);
      expect(told[2]?.runMs).toBeGreaterThan(10);
    } finally {
      channel.unsubscribe(subscribers);
    }
  });
});
