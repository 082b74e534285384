import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { connect } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import type { NextFunction, Request, Response } from 'express';
import { currentDeadline, type TimeoutOptions, timeout } from 'express-unblock';
import { abortOf, Connection, cleanUp, expresses, gate, messagesOn, serve } from './support/keep-alive';

afterEach(cleanUp);

const hang = () => {};

describe('timeout', () => {
  it.each([
    [0, 'got 0'],
    [-1, 'got -1'],
    [Number.NaN, 'got NaN'],
    [2 ** 31, 'got 2147483648'],
    [Number.POSITIVE_INFINITY, 'got Infinity'],
    ['5x', 'got "5x"'],
    ['', 'got ""'],
    [undefined, 'got undefined'],
    [null, 'got null'],
    [{}, 'got an object'],
  ])('refuses %p as a time where it is written', (time, got) => {
    const refusal = { name: 'TypeError', code: 'ERR_UNBLOCK_BAD_OPTION' };
    const message = `timeout: time must be 1 to 2147483647 ms, ${got}`;
    expect(() => timeout(time as number)).toThrow(expect.objectContaining({ ...refusal, message }));
  });

  it.each([
    [{ untill: 'head' }, 'timeout: unknown option "untill", expected until, skip or upstream'],
    [{ until: 'end' }, 'timeout: until must be "head" or "response", got "end"'],
    [{ skip: true }, 'timeout: skip must be a function, got true'],
    [[], 'timeout: options must be an object, got an array'],
    [null, 'timeout: options must be an object, got null'],
  ])('refuses the options %p where they are written', (options, message) => {
    const refusal = { name: 'TypeError', code: 'ERR_UNBLOCK_BAD_OPTION', message };
    expect(() => timeout(100, options as TimeoutOptions)).toThrow(expect.objectContaining(refusal));
  });

  it('says what to write where timeout itself is taken for a middleware', async () => {
    const app = expresses[0][1]()
      .set('env', 'test')
      .use(timeout as never);
    const { status, body } = await (await Connection.open((await serve(app)).port)).get('/');
    expect([status, body]).toEqual([
      500,
      expect.stringContaining('timeout: makes a middleware and is none; write app.use'),
    ]);
  });

  it('takes undefined for the default and the longest time a timer can hold', () => {
    expect(timeout(2 ** 31 - 1, { until: undefined, skip: undefined }).name).toBe('timeoutMiddleware');
  });
});

describe.each(expresses)('timeout on %s', (_, express) => {
  /** An app that answers errors with what they carry. */
  function makeApp() {
    const app = express();
    return {
      app,
      /** Call it last: Express asks error handlers in the order of their registration. */
      async open() {
        app.use((error: Record<string, unknown>, _req: Request, res: Response, next: NextFunction) => {
          const { name, message, code, status, timeout } = error;
          if (res.headersSent) next(error);
          else res.status(Number(status ?? 500)).json({ name, message, code, timeout });
        });
        return Connection.open((await serve(app)).port);
      },
    };
  }

  it('answers a request that is done in time as if it were not there', async () => {
    const { app, open } = makeApp();
    app.use(timeout(10_000));
    app.get('/', (_req, res) => void res.status(201).json({ fast: true }));
    const { status, body } = await (await open()).get('/');
    expect([status, body]).toEqual([201, '{"fast":true}']);
  });

  it.each([30, '30ms', () => 30, () => '30ms'])('hands a 504 to the error handlers after %p', async (time) => {
    const timeouts = messagesOn('express-unblock:timeout');
    const { app, open } = makeApp();
    app.use(timeout(time));
    app.get('/', hang);
    const { status, body } = await (await open()).get('/');
    expect([status, JSON.parse(body)]).toEqual([
      504,
      {
        name: 'GatewayTimeoutError',
        message: 'Request exceeded the time limit for processing',
        code: 'ERR_UNBLOCK_TIMEOUT',
        timeout: 30,
      },
    ]);
    expect(timeouts.all).toHaveLength(1);
    expect(timeouts.all[0]).toMatchObject({ req: { url: '/' }, res: { statusCode: 504 }, error: { timeout: 30 } });
  });

  it('is answered by Express itself where the app has no error handler', async () => {
    const app = express();
    app.get('/', timeout(30), hang);
    const connection = await Connection.open((await serve(app)).port);
    const { status, body } = await connection.get('/');
    expect(status).toBe(504);
    expect(body).toContain('<pre>');
  });

  it('answers a HEAD request with a head', async () => {
    const { app, open } = makeApp();
    app.get('/', timeout(30), hang);
    const connection = await open();
    connection.send('HEAD', '/');
    expect((await connection.answer({ head: true })).status).toBe(504);
    expect((await connection.get('/')).status).toBe(504);
  });

  it('hands what the function of the request throws, or a time that is none, to the error handlers', async () => {
    const { app, open } = makeApp();
    const thrower = () => {
      throw Object.assign(new Error('no plan'), { status: 418 });
    };
    app.get('/throws', timeout(thrower), hang);
    app.get('/skip', timeout(50, { skip: thrower }), hang);
    app.get(
      '/bad',
      timeout(() => 0),
      hang,
    );
    const nothing = () => {
      throw undefined;
    };
    app.get('/nothing', timeout(nothing), (_req, res) => void res.send('without a deadline'));
    const connection = await open();
    expect((await connection.get('/nothing')).status).toBe(500);
    expect((await connection.get('/throws')).status).toBe(418);
    expect((await connection.get('/skip')).status).toBe(418);
    expect(JSON.parse((await connection.get('/bad')).body)).toMatchObject({
      code: 'ERR_UNBLOCK_BAD_OPTION',
      message: 'timeout: the time returned must be 1 to 2147483647 ms, got 0',
    });
  });

  it('sets no limit to requests that are to be skipped, and tells them of their client all the same', async () => {
    const { app, open } = makeApp();
    app.use(timeout(20, { skip: (req) => req.url === '/skipped' }));
    app.get('/skipped', async (req, res) => {
      const { deadline } = req;
      await sleep(40);
      res.json([
        String(deadline.remaining()),
        deadline.expired,
        currentDeadline() === deadline,
        deadline.signal.aborted,
      ]);
    });
    expect((await (await open()).get('/skipped')).body).toBe('["Infinity",false,true,false]');
  });

  it('takes the most specific of several times, raising and lowering', async () => {
    const { app, open } = makeApp();
    const router = express.Router();
    app.use(timeout(200));
    app.use('/lower', router);
    router.use(timeout(40));
    router.get('/', hang);
    router.get('/raised', timeout(5_000), (req, res) => {
      const { deadline } = req;
      // Past both of the others.
      sleep(250).then(() => res.json([deadline.remaining() > 4_000, deadline.expired, deadline.signal.aborted]));
    });
    app.get('/app', hang);
    const connection = await open();
    expect(JSON.parse((await connection.get('/lower')).body).timeout).toBe(40);
    expect(JSON.parse((await connection.get('/app')).body).timeout).toBe(200);
    expect((await connection.get('/lower/raised')).body).toBe('[true,false,false]');
  });

  it('takes the options of the last of several, too', async () => {
    const { app, open } = makeApp();
    app.use(timeout(5_000, { until: 'response' }));
    app.get('/', timeout(30), (_req, res) => {
      res.write('first, ');
      // Past the deadline, which an answer that has begun may outlive.
      sleep(90).then(() => res.end('last'));
    });
    expect((await (await open()).get('/')).body).toBe('first, last');
  });

  it('has one deadline for each request, the same from everywhere inside it', async () => {
    const { app, open } = makeApp();
    app.use(timeout(1_000));
    app.get('/', timeout('2s'), async (req, res) => {
      const { deadline } = req;
      const before = currentDeadline() === deadline;
      await sleep(1);
      process.nextTick(() => {
        setImmediate(() => {
          const { expired, signal } = deadline;
          const remaining = deadline.remaining() > 1_000 && deadline.remaining() <= 2_000;
          res.json({ before, after: currentDeadline() === deadline, expired, aborted: signal.aborted, remaining });
        });
      });
    });
    expect(JSON.parse((await (await open()).get('/')).body)).toEqual({
      before: true,
      after: true,
      expired: false,
      aborted: false,
      remaining: true,
    });
    expect(currentDeadline()).toBeUndefined();
  });

  it('can be given a limit by the handler where it was skipped', async () => {
    const { app, open } = makeApp();
    app.get('/', timeout(20, { skip: () => true }), (req) => req.deadline.extend(30));
    expect(JSON.parse((await (await open()).get('/')).body)).toMatchObject({ timeout: 30 });
    const beside = makeApp();
    beside.app.use(timeout(5_000, { until: 'response' }));
    beside.app.get('/', timeout(20, { skip: () => true }), (req) => req.deadline.extend(30));
    expect(JSON.parse((await (await beside.open()).get('/')).body)).toMatchObject({ timeout: 30 });
  });

  it('can be extended, shortened and cleared by the handler', async () => {
    const { app, open } = makeApp();
    app.use(timeout(40));
    app.get('/extended', async (req, res) => {
      req.deadline.extend('5s');
      await sleep(80);
      res.json(req.deadline.remaining() > 4_000);
    });
    app.get('/shortened', timeout(5_000), (req) => req.deadline.extend(30));
    app.get('/cleared', async (req, res) => {
      req.deadline.clear();
      await sleep(80);
      res.json([req.deadline.remaining() === Number.POSITIVE_INFINITY, req.deadline.expired]);
    });
    app.get('/wrong', (req) => req.deadline.extend(0));
    const connection = await open();
    expect((await connection.get('/extended')).body).toBe('true');
    expect(JSON.parse((await connection.get('/shortened')).body)).toMatchObject({ timeout: 30 });
    expect((await connection.get('/cleared')).body).toBe('[true,false]');
    expect((await connection.get('/wrong')).body).toContain('deadline.extend: time must be 1 to 2147483647 ms, got 0');
  });

  it('has no limit left to tell of once the head was sent in time', async () => {
    const { app, open } = makeApp();
    app.get('/', timeout(30), async (req, res) => {
      res.flushHeaders();
      await sleep(90);
      res.end(String(req.deadline.remaining()));
    });
    expect((await (await open()).get('/')).body).toBe('Infinity');
  });

  it('says so once the deadline has passed, and is not brought back by extend or clear', async () => {
    const { app, open } = makeApp();
    app.get('/', timeout(30), hang);
    app.use((error: Error, req: Request, _res: Response, next: NextFunction) => {
      const { deadline } = req;
      deadline.extend(1_000);
      deadline.clear();
      // Node's timers may fire a fraction of a millisecond before their time.
      const clock = jest.spyOn(performance, 'now').mockReturnValue(0);
      const { expired, signal } = deadline;
      const seen = [expired, deadline.remaining(), signal.reason === error, currentDeadline() === deadline];
      clock.mockRestore();
      next(Object.assign(error, { message: seen.join() }));
    });
    expect(JSON.parse((await (await open()).get('/')).body).message).toBe('true,0,true,true');
  });

  it('leaves out of the 504 what the handler said of its own body, and keeps the rest', async () => {
    const { app } = makeApp();
    const ofTheBody = {
      'Content-Length': '5',
      'Content-Type': 'image/png',
      'Content-Encoding': 'br',
      'Content-Language': 'de',
      'Content-Disposition': 'attachment',
      'Content-Range': 'bytes 0-4/5',
      'Content-Location': '/other',
      ETag: '"abc"',
      'Last-Modified': 'Sun, 06 Nov 1994 08:49:37 GMT',
      'Cache-Control': 'public, max-age=31536000',
      Expires: 'Sun, 06 Nov 2094 08:49:37 GMT',
      'Accept-Ranges': 'bytes',
      Location: '/other',
      Digest: 'sha-256=x',
      'Repr-Digest': 'sha-256=:x:',
      Trailer: 'Server-Timing',
    };
    const kept = {
      'Access-Control-Allow-Origin': '*',
      'X-Request-Id': 'r1',
      'Content-Security-Policy': "default-src 'self'",
      'Content-Security-Policy-Report-Only': "default-src 'self'",
      'X-Content-Type-Options': 'nosniff',
      'Set-Cookie': 'a=b',
      Vary: 'Origin',
      'Refresh-Token-Hint': 'soon',
      'Age-Group': 'adult',
    };
    app.get('/', timeout(30), (_req, res) => {
      res.statusMessage = 'Made';
      res.status(201).set(ofTheBody).set(kept);
    });
    app.use((_error: Error, _req: Request, res: Response, _next: NextFunction) => void res.end('late'));
    const connection = await Connection.open((await serve(app)).port);
    const { status, headers, body } = await connection.get('/');
    expect([status, body]).toEqual([504, 'late']);
    const lowercased = Object.entries(kept).map(([name, value]) => [name.toLowerCase(), value]);
    expect(headers).toMatchObject(Object.fromEntries(lowercased));
    const rest = Object.keys(headers).filter((name) => !lowercased.some(([kept]) => kept === name));
    expect(rest.sort()).toEqual(['connection', 'date', 'keep-alive', 'transfer-encoding', 'x-powered-by']);
  });

  it('sends the result of a handler that blocked the event loop past its deadline, once', async () => {
    const timeouts = messagesOn('express-unblock:timeout');
    const { app, open } = makeApp();
    app.use(timeout(30));
    app.get('/at-once', (_req, res) => {
      block(60);
      res.json('done');
    });
    app.get('/after-await', async (_req, res) => {
      await null;
      block(60);
      await null;
      res.json('done');
    });
    app.get('/after-timer', async (_req, res) => {
      const waiting = sleep(10);
      block(60);
      await waiting;
      res.json('done');
    });
    const connection = await open();
    for (const path of ['/at-once', '/after-await', '/after-timer']) {
      const { status, body } = await connection.get(path);
      expect([path, status, body]).toEqual([path, 200, '"done"']);
    }
    expect(timeouts.all).toEqual([]);
  });

  it('sends a result that had come in while the event loop was blocked past the deadline', async () => {
    // Echoes from another process, which answers while this one is blocked.
    const echo = spawn(process.execPath, ['-e', 'process.stdin.pipe(process.stdout)']);
    try {
      echo.stdin.write('ready');
      await once(echo.stdout, 'data');
      const { app, open } = makeApp();
      app.get('/', timeout(50), async (_req, res) => {
        const echoed = once(echo.stdout, 'data');
        echo.stdin.write('done');
        block(1_000);
        res.send(String(await echoed));
      });
      const { status, body } = await (await open()).get('/');
      expect([status, body]).toEqual([200, 'done']);
    } finally {
      echo.kill();
    }
  });

  it('leaves a response alone whose head was sent in time', async () => {
    const timeouts = messagesOn('express-unblock:timeout');
    const expired = gate();
    const { app, open } = makeApp();
    app.get('/', timeout(30), async (req, res) => {
      res.write('first, ');
      await sleep(60);
      res.write(`${req.deadline.expired}, ${req.deadline.signal.aborted}, `);
      res.end('last');
      expired.open();
    });
    const { status, body } = await (await open()).get('/');
    await expired.opened;
    expect([status, body]).toEqual([200, 'first, false, false, last']);
    expect(timeouts.all).toEqual([]);
  });

  it("cuts off, with until: 'response', what is not whole by the deadline", async () => {
    const timeouts = messagesOn('express-unblock:timeout');
    const reason = gate<unknown>();
    const { app, open } = makeApp();
    app.get('/', timeout(60, { until: 'response' }), (req, res) => {
      res.write('first');
      req.deadline.signal.addEventListener('abort', () => {
        res.end('and a proper end');
        reason.open(req.deadline.signal.reason);
      });
    });
    const connection = await open();
    await expect(connection.get('/')).rejects.toThrow(/connection over after .*5\\r\\nfirst\\r\\n"$/);
    expect(await reason.opened).toMatchObject({ code: 'ERR_UNBLOCK_TIMEOUT', timeout: 60 });
    expect(timeouts.all).toHaveLength(1);
  });

  it("cuts off, with until: 'response', by a reset where the end of the connection would be that of the answer", async () => {
    const app = express();
    app.get('/', timeout(60, { until: 'response' }), (_req, res) => void res.write('half of it'));
    const { port } = await serve(app);
    const socket = connect(port);
    socket.write('GET / HTTP/1.0\r\n\r\n');
    socket.resume();
    const [error] = await once(socket, 'error');
    expect(error).toMatchObject({ code: 'ECONNRESET' });
  });

  it("cuts off, with until: 'response', what was written in time and not read by the client", async () => {
    const { app, open } = makeApp();
    const reason = gate<unknown>();
    app.get('/', timeout(100, { until: 'response' }), (req, res) => {
      res.end(Buffer.alloc(64 * 1024 * 1024));
      abortOf(req.deadline.signal).then(reason.open);
    });
    const connection = await open();
    connection.socket.pause();
    connection.send('GET', '/');
    expect(await reason.opened).toMatchObject({ code: 'ERR_UNBLOCK_TIMEOUT' });
    connection.socket.resume();
    await connection.closed;
    expect(connection.socket.bytesRead).toBeLessThan(64 * 1024 * 1024);
  });

  it("answers 504, with until: 'response', where nothing was sent, and leaves alone what is whole", async () => {
    const { app, open } = makeApp();
    app.use(timeout(30, { until: 'response' }));
    app.get('/nothing', hang);
    app.get('/whole', (_req, res) => void res.end('whole'));
    const connection = await open();
    expect((await connection.get('/nothing')).status).toBe(504);
    expect((await connection.get('/whole')).body).toBe('whole');
    await sleep(60);
    expect((await connection.get('/whole')).body).toBe('whole');
  });
});

function block(ms: number): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms);
}
