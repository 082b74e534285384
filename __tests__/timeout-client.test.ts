import { once } from 'node:events';
import http from 'node:http';
import type { Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import type { NextFunction, Request, Response } from 'express';
import { createPool, limitInput, offload, problemDetails, timeout } from 'express-unblock';
import { abortOf, Connection, cleanUp, expresses, gate, serve } from './support/keep-alive';

afterEach(cleanUp);

const JSON_TYPE = 'application/json';

describe.each(expresses)('the client of a request with a deadline, on %s', (_, express) => {
  /** The handler of a request whose client leaves as soon as it says so. */
  async function leaveWhen(handler: (req: Request, res: Response, leave: () => void) => unknown, body = '') {
    const left = gate();
    const app = express();
    app.post('/', timeout(20_000), express.json(), async (req, res) => {
      await handler(req, res, left.open);
    });
    app.use(problemDetails());
    const connection = await Connection.open((await serve(app)).port);
    connection.send('POST', '/', { 'Content-Type': JSON_TYPE, 'Content-Length': body.length }, body);
    await left.opened;
    connection.socket.destroy();
    return connection;
  }

  it.each([
    ['while its handler runs', ''],
    ['after its body was parsed', '{"a":1}'],
  ])('aborts the signal when it leaves %s', async (_, body) => {
    const reason = gate<unknown>();
    await leaveWhen(async (req, _res, leave) => {
      const { deadline } = req;
      setImmediate(leave);
      reason.open(await abortOf(deadline.signal));
    }, body);
    expect(await reason.opened).toMatchObject({ code: 'ERR_UNBLOCK_CLIENT_CLOSED', status: 499 });
  });

  it('aborts the signal when it leaves during the response, or asked for after it left', async () => {
    const reason = gate<unknown>();
    await leaveWhen(async (req, res, leave) => {
      const { deadline } = req;
      res.write('first');
      setImmediate(leave);
      await once(res, 'close');
      // Made only now.
      reason.open(deadline.signal.reason);
    });
    expect(await reason.opened).toMatchObject({ code: 'ERR_UNBLOCK_CLIENT_CLOSED', status: 499 });
  });

  it('has left before the deadline was set: nothing is begun for it, and nothing comes of the deadline', async () => {
    const [arrived, left, reason] = [gate<Response>(), gate<number>(), gate<unknown>()];
    const app = express();
    const errors: unknown[] = [];
    app.get(
      '/',
      async (_req, res, next) => {
        arrived.open(res);
        await once(res, 'close');
        next();
      },
      timeout(30),
      (req, _res, _next) => {
        reason.open(req.deadline.signal.reason);
        left.open(req.deadline.remaining());
      },
    );
    app.use((error: unknown, _req: Request, _res: Response, _next: NextFunction) => void errors.push(error));
    const connection = await Connection.open((await serve(app)).port);
    connection.send('GET', '/');
    await arrived.opened;
    connection.socket.destroy();
    expect(await reason.opened).toMatchObject({ code: 'ERR_UNBLOCK_CLIENT_CLOSED' });
    expect([await left.opened, errors]).toEqual([Number.POSITIVE_INFINITY, []]);
  });

  it('aborts the signal when it leaves in the middle of its upload', async () => {
    const reason = gate<unknown>();
    const app = express();
    const asked = gate();
    app.post('/', timeout(20_000), async (req) => {
      req.resume();
      asked.open();
      reason.open(await abortOf(req.deadline.signal));
    });
    const connection = await Connection.open((await serve(app)).port);
    connection.send('POST', '/', { 'Content-Length': 100 }, 'half of it');
    await asked.opened;
    connection.socket.destroy();
    expect(await reason.opened).toMatchObject({ code: 'ERR_UNBLOCK_CLIENT_CLOSED' });
  });

  it.each([
    ['at once', 0],
    ['later', 30],
    ['never', -1],
  ])(
    'aborts the signal when it leaves in the middle of its upload and an error handler answers %s',
    async (_, after) => {
      const reason = gate<unknown>();
      const arrived = gate();
      const app = express();
      app.use(timeout(20_000), (req, _res, next) => {
        abortOf(req.deadline.signal).then(reason.open);
        arrived.open();
        next();
      });
      app.use(express.json());
      app.use((_error: Error, _req: Request, res: Response, _next: NextFunction) => {
        if (after === 0) res.sendStatus(400);
        else if (after > 0) setTimeout(() => res.sendStatus(400), after);
      });
      const connection = await Connection.open((await serve(app)).port);
      connection.send('POST', '/', { 'Content-Type': JSON_TYPE, 'Content-Length': 100 }, '{"half":');
      await arrived.opened;
      connection.socket.destroy();
      expect(await reason.opened).toMatchObject({ code: 'ERR_UNBLOCK_CLIENT_CLOSED', status: 499 });
    },
  );

  it('aborts the signal of every request that it sent at once, however many', async () => {
    const app = express();
    const all = gate();
    const reasons: Promise<unknown>[] = [];
    const counts: number[] = [];
    app.get('/', timeout(20_000), (req) => {
      counts.push(req.socket.listenerCount('close'));
      if (reasons.push(abortOf(req.deadline.signal)) === 20) all.open();
    });
    const connection = await Connection.open((await serve(app)).port);
    for (let i = 0; i < 20; i++) connection.send('GET', '/');
    await all.opened;
    connection.socket.destroy();
    expect(await Promise.all(reasons)).toEqual(
      Array(20).fill(expect.objectContaining({ code: 'ERR_UNBLOCK_CLIENT_CLOSED' })),
    );
    // Enough of them, and Node would warn of a leak.
    expect(new Set(counts.slice(1)).size).toBe(1);
  });

  it('does not abort the signal of a request behind another that was answered, and leaves no listener', async () => {
    const app = express();
    const counts: number[] = [];
    const closed = [gate(), gate(), gate()];
    const signals: AbortSignal[] = [];
    app.get('/:n', timeout(20_000), (req, res) => {
      signals.push(req.deadline.signal);
      res.on('close', () => closed[Number(req.params.n)]?.open());
      setImmediate(() => res.end('whole'));
    });
    app.get('/', (req, res) => {
      counts.push(req.socket.listenerCount('close'));
      res.end();
    });
    const connection = await Connection.open((await serve(app)).port);
    await connection.get('/');
    for (const n of [0, 1, 2]) connection.send('GET', `/${n}`);
    for (const { opened } of closed) await opened;
    for (const _ of closed) await connection.answer();
    await connection.get('/');
    connection.socket.destroy();
    await connection.closed;
    expect(signals.map(({ aborted }) => aborted)).toEqual([false, false, false]);
    expect(counts[1]).toBe(counts[0]);
  });

  it('ends an offloaded call when it leaves, running or queued', async () => {
    await using pool = createPool({ workers: 1 });
    const spin = offload(
      function spin() {
        for (;;);
      },
      { pool },
    );
    for (const queued of [false, true]) {
      const outcome = gate<unknown>();
      const holder = new AbortController();
      const holding = queued
        ? spin
            .with({ signal: holder.signal })()
            .catch(() => {})
        : undefined;
      await leaveWhen(async (_req, _res, leave) => {
        const call = spin();
        setTimeout(leave, 200);
        await call.then(undefined, outcome.open);
      });
      expect(await outcome.opened).toMatchObject({ code: 'ERR_UNBLOCK_CLIENT_CLOSED' });
      holder.abort();
      await holding;
    }
  });

  it('does not abort the signal by waiting after its body was read to the end', async () => {
    const app = express();
    app.post('/', timeout(20_000), express.json(), async (req, res) => {
      const { signal } = req.deadline;
      if (!req.closed) await once(req, 'close');
      await sleep(20);
      res.json({ aborted: signal.aborted, got: req.body });
    });
    const connection = await Connection.open((await serve(app)).port);
    connection.send('POST', '/', { 'Content-Type': JSON_TYPE, 'Content-Length': 7 }, '{"a":1}');
    expect(JSON.parse((await connection.answer()).body)).toEqual({ aborted: false, got: { a: 1 } });
  });

  it('does not abort the signal of a request that was answered', async () => {
    const app = express();
    const signal = gate<AbortSignal>();
    app.get('/', timeout(20_000), (req, res) => {
      signal.open(req.deadline.signal);
      res.on('close', () => closed.open());
      res.end('whole');
    });
    const closed = gate();
    const connection = await Connection.open((await serve(app)).port);
    await connection.get('/');
    await closed.opened;
    connection.socket.destroy();
    await connection.closed;
    expect((await signal.opened).aborted).toBe(false);
  });

  it.each([
    ['with a parser that waits for the rest', true],
    ['that nobody reads', false],
  ])('gets a 408 for a stalled upload %s, although the body never comes', async (_, parsed) => {
    const app = express();
    app.use(timeout(60));
    if (parsed) app.use(express.json());
    app.post('/', () => {});
    app.use(problemDetails());
    const connection = await Connection.open((await serve(app)).port);
    connection.send('POST', '/', { 'Content-Type': JSON_TYPE, 'Content-Length': 1_000 }, '{"a":');
    const { status, headers, body } = await connection.answer();
    expect([status, headers['content-type']]).toEqual([408, 'application/problem+json; charset=utf-8']);
    expect(headers.connection).toBe('close');
    expect(JSON.parse(body)).toEqual({
      type: 'about:blank',
      title: 'Request Timeout',
      status: 408,
      detail: 'Request body did not arrive within the time limit',
      code: 'ERR_UNBLOCK_UPLOAD_TIMEOUT',
      timeout: 60,
    });
  });

  it.each([
    ['a deadline', timeout(20_000), 408, 'x'],
    ['a limit', limitInput(10), 413, 'x'.repeat(11)],
  ])(
    'whose upload meets %s is gone for what reads it, as a proxy and its upstream',
    async (_, guard, expected, start) => {
      const reached = gate<Socket>();
      const uploading = gate<Request>();
      const upstream = await serve((req) => reached.open(req.socket));
      const app = express();
      app.post('/', guard, (req) => {
        const forward = http.request({ port: upstream.port, method: 'POST', agent: false });
        forward.on('error', () => {});
        req.on('aborted', () => forward.destroy());
        req.pipe(forward);
        forward.flushHeaders();
        uploading.open(req);
      });
      app.use(problemDetails());
      const connection = await Connection.open((await serve(app)).port);
      connection.send('POST', '/', { 'Transfer-Encoding': 'chunked' });
      const forwarded = await reached.opened;
      (await uploading.opened).deadline?.extend(1);
      connection.socket.write(`${start.length.toString(16)}\r\n${start}\r\n`);
      expect((await connection.answer()).status).toBe(expected);
      if (!forwarded.destroyed) await new Promise((resolve) => forwarded.once('close', resolve));
    },
  );

  it('gets a 504 where it waits for a handler that does not read its body on', async () => {
    const app = express();
    app.post('/', timeout(500), (req) => void req.once('data', () => req.pause()));
    const connection = await Connection.open((await serve(app)).port);
    connection.send('POST', '/', { 'Content-Length': 10_000_000 });
    connection.socket.write(Buffer.alloc(8_000_000));
    expect((await connection.answer()).status).toBe(504);
  });

  it('gets a 504 for a body that arrived in full', async () => {
    const app = express();
    app.post('/', timeout(60), express.json(), () => {});
    const connection = await Connection.open((await serve(app)).port);
    connection.send('POST', '/', { 'Content-Type': JSON_TYPE, 'Content-Length': 7 }, '{"a":1}');
    expect((await connection.answer()).status).toBe(504);
    connection.send('POST', '/', { 'Content-Type': JSON_TYPE, 'Content-Length': 7 }, '{"a":1}');
    expect((await connection.answer()).status).toBe(504);
  });
});
