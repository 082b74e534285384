import { AsyncResource } from 'node:async_hooks';
import { once } from 'node:events';
import { createReadStream } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import type { ErrorRequestHandler, NextFunction, Request, Response } from 'express';
import { timeout } from 'express-unblock';
import { Connection, cleanUp, expresses, gate, messagesOn, serve } from './support/keep-alive';

afterEach(cleanUp);

const hang = () => {};

/** More than a socket takes at once. */
const BIG = 1 * 1024 * 1024;

describe.each(expresses)('the answer after the deadline, on %s', (_, express) => {
  async function open(onError: ErrorRequestHandler, handler: (req: Request, res: Response) => unknown = hang) {
    const app = express();
    app.get('/slow', timeout(30), handler);
    app.get('/next', (_req, res) => void res.send('next'));
    // Express tells error handlers by their four parameters.
    app.use((error: Error, req: Request, res: Response, next: NextFunction) => onError(error, req, res, next));
    const { port, server } = await serve(app);
    return { connection: await Connection.open(port), server };
  }

  it('is what an asynchronous error handler sends, and not what the handler does meanwhile', async () => {
    const [preparing, acted] = [gate(), gate()];
    const { connection } = await open(
      async (error, _req, res, _next) => {
        res.setHeader('Content-Language', 'de');
        preparing.open();
        await acted.opened;
        res.status(error.status).send('zu spät');
      },
      async (_req, res) => {
        await preparing.opened;
        res.status(200).set('Content-Language', 'en').json('handler');
        acted.open();
      },
    );
    const { status, headers, body } = await connection.get('/slow');
    expect([status, headers['content-language'], body]).toEqual([504, 'de', 'zu spät']);
    expect((await connection.get('/next')).body).toBe('next');
  });

  it("of Express's own final handler, too, shows nothing of the inside", async () => {
    const app = express();
    app.get('/slow', timeout(30), hang);
    jest.spyOn(console, 'error').mockImplementation();
    const { status, body } = await (await Connection.open((await serve(app)).port)).get('/slow');
    jest.restoreAllMocks();
    expect(status).toBe(504);
    expect(body).toContain('<pre>GatewayTimeoutError: Request exceeded the time limit for processing</pre>');
  });

  it('may be rendered by a view engine that takes its time', async () => {
    const app = express();
    app.set('views', __dirname);
    app.engine('ts', (_file, options, done) => {
      setTimeout(done, 20, null, `Sorry, ${(options as { what?: string }).what}`);
    });
    app.get('/slow', timeout(30), hang);
    app.use((error: { status: number }, _req: Request, res: Response, _next: NextFunction) => {
      res.status(error.status).render(path.basename(__filename), { what: 'too slow' });
    });
    const { status, body } = await (await Connection.open((await serve(app)).port)).get('/slow');
    expect([status, body]).toEqual([504, 'Sorry, too slow']);
  });

  it('may be a big stream, a big file, or written piece by piece with waiting for drain', async () => {
    const file = path.join(tmpdir(), `express-unblock-${process.pid}-${express === expresses[0][1] ? 5 : 4}.bin`);
    await writeFile(file, Buffer.alloc(BIG, 'f'));
    let drainListeners: number | undefined;
    const ways: ErrorRequestHandler[] = [
      (_error, _req, res) => void createReadStream(file).pipe(res),
      (_error, _req, res) => void pipeline(createReadStream(file), res),
      (_error, _req, res, next) => void res.sendFile(file, (failed) => failed && next(failed)),
      async (_error, _req, res) => {
        for (let sent = 0; sent < BIG; sent += 65536)
          if (!res.write(Buffer.alloc(65536, 'f'))) await once(res, 'drain');
        drainListeners = res.listenerCount('drain');
        res.end();
      },
      async (_error, _req, res) => void Readable.from(pieces()).pipe(res),
    ];
    for (const way of ways) {
      const { connection } = await open((error, req, res, next) => way(error, req, res.status(504), next));
      const { status, body } = await connection.get('/slow');
      expect([status, body.length]).toEqual([504, BIG]);
      expect((await connection.get('/next')).body).toBe('next');
    }
    expect(drainListeners).toBe(0);
  });

  it('may be a big stream behind an earlier answer that its client reads slowly', async () => {
    const [asked, finish] = [gate(), gate()];
    const app = express();
    app.get('/first', (_req, res) => void finish.opened.then(() => res.end(Buffer.alloc(2 * BIG, 'x'))));
    app.get('/slow', timeout(30), hang);
    app.use((_error: Error, _req: Request, res: Response, _next: NextFunction) => {
      Readable.from(pieces()).pipe(res.status(504).set('Content-Length', String(BIG)));
      asked.open();
    });
    const connection = await Connection.open((await serve(app)).port);
    connection.socket.pause();
    connection.send('GET', '/first');
    connection.send('GET', '/slow');
    await asked.opened;
    finish.open();
    await sleep(100);
    connection.socket.resume();
    expect((await connection.answer()).body).toHaveLength(2 * BIG);
    const { status, body } = await connection.answer();
    expect([status, body.length]).toEqual([504, BIG]);
  });

  it("has the error's status, whatever the handler sets meanwhile", async () => {
    const acted = gate();
    const { connection } = await open(
      async (_error, _req, res, _next) => {
        await acted.opened;
        res.send('slow');
      },
      (req, res) => {
        req.deadline.signal.addEventListener('abort', () => {
          setImmediate(() => {
            res.status(200).statusMessage = 'Fine';
            acted.open();
          });
        });
      },
    );
    expect(await connection.get('/slow')).toMatchObject({ status: 504, body: 'slow' });
  });

  it('may take longer than a second once it has begun', async () => {
    const { connection } = await open(async (error, _req, res, _next) => {
      res.status(error.status).write('first, ');
      await sleep(1_200);
      res.end('last');
    });
    const { status, body } = await connection.get('/slow');
    expect([status, body]).toEqual([504, 'first, last']);
  });

  it('is a bare one after a second of silence, and nothing that comes later', async () => {
    const reports = messagesOn('express-unblock:late');
    const acted = gate<unknown>();
    const { connection } = await open(
      async (error, _req, res, next) => {
        await sleep(1_100);
        try {
          res.status(500).json('too late');
          next(error);
          acted.open(undefined);
        } catch (thrown) {
          acted.open(thrown);
        }
      },
      (_req, res) => void res.set({ ETag: '"x"', 'X-Request-Id': 'r1' }),
    );
    const start = performance.now();
    const { status, headers, body } = await connection.get('/slow');
    expect([status, body]).toEqual([504, 'Gateway Timeout']);
    expect(headers).toMatchObject({ 'content-type': 'text/plain; charset=utf-8', 'x-request-id': 'r1' });
    expect(headers).not.toHaveProperty('etag');
    expect(performance.now() - start).toBeGreaterThan(1_000);

    expect(await acted.opened).toBeUndefined();
    expect((await connection.get('/next')).body).toBe('next');
    expect(reports.all.map(({ method }) => method)).toEqual(['json']);
  });

  it('is a bare one where the error handler answers in a callback that has lost the async context', async () => {
    const reports = messagesOn('express-unblock:late');
    const elsewhere = new AsyncResource('connection of a pool');
    const { connection } = await open((error, _req, res, _next) => {
      elsewhere.runInAsyncScope(() => res.status(error.status).send('lost'));
    });
    expect(await connection.get('/slow')).toMatchObject({ status: 504, body: 'Gateway Timeout' });
    expect(reports.all.map(({ method }) => method)).toEqual(['send']);
  });

  it('leaves a connection, bare or not, that is closed when it was idle for long enough', async () => {
    const { connection, server } = await open(() => {});
    server.keepAliveTimeout = 50;
    expect((await connection.get('/slow')).status).toBe(504);
    await connection.closed;
  });

  it('is that of the second error handler where the first passes it on or fails', async () => {
    const fail = () => {
      throw Object.assign(new Error('broken'), { status: 500 });
    };
    for (const first of [(error: Error, next: NextFunction) => next(error), fail]) {
      const app = express();
      app.get('/slow', timeout(30), hang);
      app.use((error: Error, _req: Request, _res: Response, next: NextFunction) => first(error, next));
      app.use((_error: Error, _req: Request, res: Response, _next: NextFunction) => void res.send('second'));
      const { body } = await (await Connection.open((await serve(app)).port)).get('/slow');
      expect(body).toBe('second');
    }
  });

  it('may come from an ordinary route that the error handler goes on to', async () => {
    const app = express();
    app.get('/slow', timeout(30), hang);
    app.use((_error: Error, _req: Request, _res: Response, next: NextFunction) => next());
    app.use(timeout(1_000));
    app.use(async (_req: Request, res: Response) => {
      await sleep(5);
      res.status(404).send('fallback');
    });
    const { status, body } = await (await Connection.open((await serve(app)).port)).get('/slow');
    expect([status, body]).toEqual([404, 'fallback']);
  });

  it('is not sent to a client that has left meanwhile', async () => {
    const [asked, closed] = [gate(), gate()];
    const { connection } = await open((_error, _req, res) => {
      res.on('close', closed.open);
      asked.open();
    });
    connection.send('GET', '/slow');
    await asked.opened;
    connection.socket.destroy();
    await closed.opened;
  });

  it('leaves no listener behind on the connection', async () => {
    const app = express();
    const counts: number[] = [];
    app.use((req, _res, next) => {
      counts.push(req.socket.eventNames().reduce((sum, name) => sum + req.socket.listenerCount(name), 0));
      next();
    });
    app.get('/slow', timeout(5), hang);
    const connection = await Connection.open((await serve(app)).port);
    for (let round = 0; round < 15; round++) expect((await connection.get('/slow')).status).toBe(504);
    expect(new Set(counts).size).toBe(1);
  });
});

function* pieces() {
  for (let sent = 0; sent < BIG; sent += 65536) yield Buffer.alloc(65536, 'f');
}
