import { once } from 'node:events';
import fs, { createReadStream, type ReadStream, statSync } from 'node:fs';
import { ServerResponse } from 'node:http';
import { PassThrough, Readable } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import { pipeline } from 'node:stream/promises';
import type { NextFunction, Request, Response } from 'express';
import { currentDeadline, timeout } from 'express-unblock';
import { abortOf, Connection, cleanUp, expresses, gate, messagesOn, serve } from './support/keep-alive';

afterEach(cleanUp);

type Act = (res: Response, next: NextFunction, req: Request) => unknown;

/** What a handler may still do when its deadline has passed, and the name it is reported by. */
const lateActs: [string, string, Act][] = [
  ['res.json', 'json', (res) => res.json({ late: true })],
  ['res.send', 'send', (res) => res.send('late')],
  ['res.sendStatus', 'sendStatus', (res) => res.sendStatus(202)],
  ['res.redirect', 'redirect', (res) => res.redirect('/elsewhere')],
  ['res.sendFile', 'sendFile', (res) => res.sendFile(__filename)],
  ['res.download', 'download', (res) => res.download(__filename)],
  ['res.setHeader', 'setHeader', (res) => res.setHeader('X-Late', 'yes')],
  ['res.removeHeader', 'removeHeader', (res) => res.removeHeader('X-Early')],
  ['res.cookie', 'setHeader', (res) => res.cookie('late', 'yes')],
  ['res.writeHead', 'writeHead', (res) => res.writeHead(200, { 'X-Late': 'yes' })],
  ['res.flushHeaders', 'flushHeaders', (res) => res.flushHeaders()],
  ['res.write', 'write', (res) => res.write('late')],
  ['res.end', 'end', (res) => res.end('late')],
  ['res.destroy', 'destroy', (res) => res.destroy()],
  ['a stream piped into res', 'write', (res) => Readable.from(['late']).pipe(res)],
  ['a file piped into res', 'write', (res) => createReadStream(__filename).pipe(res)],
  ['a chain of calls', 'setHeader', (res) => res.status(200).type('text').set('X-Late', '1').send('late')],
  ["a chain of Node's own calls", 'writeHead', (res) => res.writeHead(200, { 'X-Late': '1' }).end('late')],
];

// Node's own other name for it, until Node 25.
if ('writeHeader' in ServerResponse.prototype) {
  lateActs.push(['res.writeHeader', 'writeHeader', (res) => (res as any).writeHeader(200, { 'X-Late': 'yes' })]);
}

/** Methods kept from before the deadline, as middlewares that wrap `res` keep them. */
const keptActs: [string, (res: Response) => () => unknown][] = [
  ['end with a chunk', (res) => keep(res, res.end, 'late', 'utf8')],
  ['end without a chunk', (res) => keep(res, res.end)],
  ['write', (res) => keep(res, res.write, 'late', 'utf8')],
];

/** What a handler may do while the error handlers are at work; `asked` tells that they are. */
const whileAtWork: [string, (req: Request, next: NextFunction, asked: Promise<void>, res: Response) => unknown][] = [
  [
    'next(reason) from a listener of its signal',
    (req, next) =>
      new Promise<void>((resolve) => {
        req.deadline.signal.addEventListener('abort', () => resolve(next(req.deadline.signal.reason)));
      }),
  ],
  ['next() while they are at work', (_req, next, asked) => asked.then(() => next())],
  ['next(error) while they are at work', (_req, next, asked) => asked.then(() => next(new Error('late')))],
  ['an abort that it hands on', (req, next) => abortOf(req.deadline.signal).then(next)],
  ['the next of its router', (req, _next, asked) => asked.then(() => req.next?.(new Error('late')))],
  ['the next of its router, kept from before', ({ next }, _next, asked) => asked.then(() => next?.(new Error('late')))],
  [
    'a view that fails',
    (req, _next, asked, res) =>
      new Promise<void>((resolve) => {
        req.app.engine('ts', (_path, _options, done) => void asked.then(() => resolve(done(new Error('late')))));
        res.render(__filename);
      }),
  ],
  [
    'a file that is not there',
    (_req, _next, asked, res) =>
      new Promise<void>((resolve) => {
        const stat = jest.spyOn(fs, 'stat').mockImplementation(((_path: unknown, done: (error: Error) => void) => {
          stat.mockRestore();
          void asked.then(() => resolve(done(Object.assign(new Error('late'), { code: 'ENOENT' }))));
        }) as never);
        res.sendFile('/missing');
      }),
  ],
  [
    'a format that nobody accepts',
    ({ headers }, _next, asked, res) => {
      headers.accept = 'text/plain';
      return asked.then(() => void res.format({ 'image/png'() {} }));
    },
  ],
  ['req.destroy()', (req, _next, asked) => asked.then(() => void req.destroy())],
];

function keep(res: Response, method: (...args: any[]) => unknown, ...args: unknown[]) {
  return () => method.apply(res, args);
}

const timedOut = { error: 'Request exceeded the time limit for processing' };

describe.each(expresses)('a handler whose deadline has passed, on %s', (_, express) => {
  /** The handler acts once `ready` is open. With `hold`, the error handler answers once `answer` is. */
  async function lateApp(prepare: (res: Response, next: NextFunction, req: Request) => () => unknown, hold = false) {
    const [ready, acted, asked, answer] = [gate(), gate<unknown>(), gate(), gate()];
    const handled: unknown[] = [];
    const app = express();
    app.get('/slow', timeout(30), async (req, res, next) => {
      res.setHeader('X-Early', 'yes');
      const act = prepare(res, next, req);
      await ready.opened;
      try {
        acted.open(await act());
      } catch (error) {
        acted.open(error);
      }
    });
    app.get('/next', (_req, res) => void res.json({ next: true, deadline: currentDeadline() !== undefined }));
    app.use(
      async (error: Error & { code: string; status: number }, _req: Request, res: Response, _next: NextFunction) => {
        handled.push(error.code ?? error.message);
        asked.open();
        if (hold) await answer.opened;
        res.status(error.status).json({ error: error.message });
      },
    );
    const { port } = await serve(app);
    return { connection: await Connection.open(port), ready, acted, asked, answer, handled };
  }

  async function expectUndisturbed(connection: Connection): Promise<void> {
    const next = await connection.get('/next');
    expect([next.status, next.body]).toEqual([200, '{"next":true,"deadline":false}']);
    expect(next.headers).not.toHaveProperty('x-late');
  }

  it.each(lateActs)('neither throws nor sends a byte with %s, and is reported', async (_, method, act) => {
    const reports = messagesOn('express-unblock:late');
    const { connection, ready, acted } = await lateApp((res, next, req) => () => act(res, next, req));

    const answer = await connection.get('/slow');
    expect([answer.status, JSON.parse(answer.body)]).toEqual([504, timedOut]);
    ready.open();
    expect(await acted.opened).not.toBeInstanceOf(Error);

    expect(await reports.first).toMatchObject({ method, req: { url: '/slow' } });
    expect((await reports.first).lateBy).toBeGreaterThan(0);
    await expectUndisturbed(connection);
    expect(reports.all).toHaveLength(1);
  });

  it.each(lateActs)('does not disturb an error handler at work with %s', async (_, method, act) => {
    const reports = messagesOn('express-unblock:late');
    const { connection, ready, acted, asked, answer } = await lateApp(
      (res, next, req) => () => act(res, next, req),
      true,
    );

    connection.send('GET', '/slow');
    await asked.opened;
    ready.open();
    expect(await acted.opened).not.toBeInstanceOf(Error);
    expect((await reports.first).method).toBe(method);
    answer.open();

    const { status, headers, body } = await connection.answer();
    expect([status, JSON.parse(body)]).toEqual([504, timedOut]);
    expect(headers).toMatchObject({ 'x-early': 'yes', 'content-type': 'application/json; charset=utf-8' });
    expect(headers).not.toHaveProperty('x-late');
    expect(headers).not.toHaveProperty('set-cookie');
    await expectUndisturbed(connection);
    expect(reports.all).toHaveLength(1);
  });

  it.each(keptActs)('sends nothing through the %s it kept from before', async (_, prepare) => {
    const { connection, ready, acted, asked, answer } = await lateApp(prepare, true);

    connection.send('GET', '/slow');
    await asked.opened;
    ready.open();
    expect(await acted.opened).not.toBeInstanceOf(Error);
    answer.open();

    const { status, body } = await connection.answer();
    expect([status, JSON.parse(body)]).toEqual([504, timedOut]);
    await expectUndisturbed(connection);
  });

  it('sees a response that is over', async () => {
    const { connection, ready, acted, asked, answer } = await lateApp(
      (res) => () => [res.writableEnded, res.destroyed],
      true,
    );
    connection.send('GET', '/slow');
    await asked.opened;
    ready.open();
    expect(await acted.opened).toEqual([true, true]);
    answer.open();
    expect((await connection.answer()).status).toBe(504);
  });

  it('sees the request as it was', async () => {
    const { open, opened } = gate<unknown[]>();
    const answered = gate();
    const look = (req: Request) => [req.url, req.baseUrl, req.path, { ...req.query }, { ...req.params }];
    const router = express.Router();
    router.get('/:id/items', async (req) => {
      const before = look(req);
      await abortOf(req.deadline.signal);
      const during = look(req);
      await answered.opened;
      open([before, during, look(req)]);
    });
    const app = express();
    app.use(timeout(30));
    app.use('/list', router);
    app.use((error: Error & { status: number }, req: Request, res: Response, _next: NextFunction) => {
      res.status(error.status).json(look(req));
    });
    const connection = await Connection.open((await serve(app)).port);
    const { status, body } = await connection.get('/list/7/items?owner=42');
    expect([status, JSON.parse(body)[3]]).toEqual([504, { owner: '42' }]);
    answered.open();
    const [before, during, after] = await opened;
    expect(before).toEqual(['/7/items?owner=42', '/list', '/7/items', { owner: '42' }, { id: '7' }]);
    expect([during, after]).toEqual([before, before]);
  });

  it('gets the error in the callbacks it passes', async () => {
    const { connection, ready, acted } = await lateApp((res) => () => {
      return new Promise((resolve) => res.sendFile(__filename, resolve));
    });
    await connection.get('/slow');
    ready.open();
    expect(await acted.opened).toMatchObject({ code: 'ERR_UNBLOCK_TIMEOUT' });
  });

  it('has a pipeline into res that was waiting for data come to an end', async () => {
    const source = new Readable({ read() {} });
    const { connection, ready, acted } = await lateApp((res) => {
      const done = pipeline(source, res).then(
        () => 'ended',
        () => 'failed',
      );
      return () => done;
    });
    expect((await connection.get('/slow')).status).toBe(504);
    ready.open();
    source.push('late');
    source.push(null);
    expect(['ended', 'failed']).toContain(await acted.opened);
    expect(source.destroyed).toBe(true);
    await expectUndisturbed(connection);
  });

  const lateNexts: [string, Act][] = [
    ['next()', (_res, next) => next()],
    ['next(error)', (_res, next) => next(new Error('late'))],
    ['next(reason of its signal)', (_res, next, req) => next(req.deadline.signal.reason)],
  ];

  it.each(lateNexts)('answers nothing with %s while an error handler is at work', async (_, act) => {
    const reports = messagesOn('express-unblock:late');
    const app = await lateApp((res, next, req) => () => act(res, next, req), true);
    app.connection.send('GET', '/slow');
    await app.asked.opened;
    app.ready.open();
    expect((await reports.first).req.url).toBe('/slow');
    app.answer.open();

    const { status, body } = await app.connection.answer();
    expect([status, JSON.parse(body)]).toEqual([504, timedOut]);
    await expectUndisturbed(app.connection);
    expect(app.handled).toEqual(['ERR_UNBLOCK_TIMEOUT']);
    expect(reports.all).toHaveLength(1);
  });

  it.each(lateNexts)('answers nothing with %s after the answer', async (_, act) => {
    const reports = messagesOn('express-unblock:late');
    const app = await lateApp((res, next, req) => () => act(res, next, req));
    expect((await app.connection.get('/slow')).status).toBe(504);
    app.ready.open();
    await app.acted.opened;

    await expectUndisturbed(app.connection);
    expect(app.handled).toEqual(['ERR_UNBLOCK_TIMEOUT']);
    expect((await reports.first).method).toBe('next');
    expect(reports.all).toHaveLength(1);
  });

  it('does not cut off the next answer on the connection with a late next(error)', async () => {
    const [late, streaming, finish] = [gate<NextFunction>(), gate(), gate()];
    const app = express();
    app.get('/slow', timeout(30), (_req, _res, next) => {
      late.opened.then(() => next(new Error('late')));
    });
    app.get('/stream', async (_req, res) => {
      res.write('first, ');
      streaming.open();
      await finish.opened;
      res.end('last');
    });
    const reports = messagesOn('express-unblock:late');
    const connection = await Connection.open((await serve(app)).port);

    expect((await connection.get('/slow')).status).toBe(504);
    connection.send('GET', '/stream');
    await streaming.opened;
    late.open(() => {});
    await reports.first;
    finish.open();
    expect((await connection.answer()).body).toBe('first, last');
  });

  it('is not heard when it answers from a listener of its signal', async () => {
    const reports = messagesOn('express-unblock:late');
    const app = express();
    app.get('/', timeout(30), (req, res) => {
      req.deadline.signal.addEventListener('abort', () => res.status(503).send('from the listener'));
    });
    const connection = await Connection.open((await serve(app)).port);
    expect((await connection.get('/')).status).toBe(504);
    expect(reports.all.map(({ method }) => method)).toEqual(['send']);
  });

  it.each(whileAtWork)('does not use up the error handlers with %s', async (_, act) => {
    const [asked, acted] = [gate(), gate()];
    const app = express();
    app.get('/', timeout(30), (req, res, next) => {
      void Promise.resolve(act(req, next, asked.opened, res)).then(() => acted.open());
    });
    app.use(async (error: Error, _req: Request, _res: Response, next: NextFunction) => {
      asked.open();
      await acted.opened;
      next(error);
    });
    app.use((error: Error & { status: number }, _req: Request, res: Response, _next: NextFunction) => {
      res.status(error.status).json({ error: error.message });
    });
    const connection = await Connection.open((await serve(app)).port);
    const { status, body } = await connection.get('/');
    expect([status, body]).toEqual([504, JSON.stringify(timedOut)]);
  });

  it.each(whileAtWork)('does not cut off a page that the error handlers are sending with %s', async (_, act) => {
    const [asked, acted] = [gate(), gate()];
    const app = express();
    app.get('/', timeout(30), (req, res, next) => {
      void Promise.resolve(act(req, next, asked.opened, res)).then(() => acted.open());
    });
    app.get('/next', (_req, res) => void res.send('next'));
    app.use(async (error: Error & { status: number }, _req: Request, res: Response, _next: NextFunction) => {
      res.status(error.status).write('begun, ');
      asked.open();
      await acted.opened;
      res.end('whole');
    });
    const connection = await Connection.open((await serve(app)).port);
    const { status, body } = await connection.get('/');
    expect([status, body]).toEqual([504, 'begun, whole']);
    expect((await connection.get('/next')).body).toBe('next');
  });

  it('has a source closed that it had piped into res and that had sent nothing', async () => {
    const source = new Readable({ read() {} });
    const app = express();
    app.get('/', timeout(30), (_req, res) => void source.pipe(res));
    const connection = await Connection.open((await serve(app)).port);
    expect((await connection.get('/')).status).toBe(504);
    await new Promise<void>((resolve) => (source.closed ? resolve() : source.once('close', resolve)));
    expect(source.destroyed).toBe(true);
  });

  it('is not heard when it has its app hold something else in req.deadline', async () => {
    const app = express();
    app.use(timeout(30));
    app.use((req, res) => {
      const { signal } = req.deadline;
      signal.addEventListener('abort', () => res.send('late'));
      if (req.path === '/getter') Object.defineProperty(req, 'deadline', { get: () => 'friday' });
      else Object.assign(req, { deadline: 'friday' });
    });
    app.use((error: { status: number }, req: Request, res: Response, _next: NextFunction) => {
      res.status(error.status).send(req.deadline);
    });
    const connection = await Connection.open((await serve(app)).port);
    for (const path of ['/getter', '/assigned']) {
      const { status, body } = await connection.get(path);
      expect([status, body]).toEqual([504, 'friday']);
    }
  });

  it('may be stopped by its signal, whose reason is the error that the error handlers get', async () => {
    const reason = gate<unknown>();
    const app = express();
    app.get('/', timeout(30), async (req) => reason.open(await abortOf(req.deadline.signal)));
    const seen: unknown[] = [];
    app.use((error: unknown, _req: Request, res: Response, _next: NextFunction) => {
      seen.push(error);
      res.end();
    });
    const connection = await Connection.open((await serve(app)).port);
    await connection.get('/');
    expect(seen).toEqual([await reason.opened]);
  });

  it("is told once, by res's close, that nobody waits, and its middlewares only when the answer is over", async () => {
    const told: unknown[] = [];
    const tell = (name: string, req: Request, res: Response) => () =>
      told.push([name, res.writableEnded, res.writableFinished, req.deadline.signal.aborted]);
    const closed = gate();
    const app = express();
    app.use((_req, res, next) => {
      res.on('close', () => closed.open());
      next();
    });
    app.use(timeout(30));
    app.use((req, res, next) => {
      res.once('close', tell('middleware', req, res));
      next();
    });
    app.get('/', (req, res) => {
      res.once('close', tell('once', req, res));
      res.on('close', tell('on', req, res));
      res.on('close', () => {
        throw new Error('of a listener');
      });
    });
    app.use(async (error: { status: number }, _req: Request, res: Response, _next: NextFunction) => {
      await null;
      res.status(error.status).end();
    });
    const reports = messagesOn('express-unblock:late');
    const connection = await Connection.open((await serve(app)).port);
    expect((await connection.get('/')).status).toBe(504);
    await closed.opened;
    await new Promise(setImmediate);
    expect(told).toEqual([
      ['once', false, false, false],
      ['on', false, false, false],
      ['middleware', true, true, true],
    ]);
    expect(reports.all.map(({ method, error }) => [method, error.message])).toEqual([['throw', 'of a listener']]);
  });

  it.each<[string, (file: ReadStream, res: Response) => unknown]>([
    ['pipe', (file, res) => file.pipe(res)],
    ['pipeline', (file, res) => pipeline(file, res).catch(() => {})],
    ['a pipe through another stream', (file, res) => pipeline(file, new PassThrough(), res).catch(() => {})],
  ])('leaves no file open with %s', async (_, send) => {
    const closed = gate();
    const app = express();
    app.get('/', timeout(30), async (req, res) => {
      await abortOf(req.deadline.signal);
      const file = createReadStream(__filename, { highWaterMark: 100 });
      file.on('close', () => closed.open());
      send(file, res);
    });
    const connection = await Connection.open((await serve(app)).port);
    expect((await connection.get('/')).status).toBe(504);
    await closed.opened;
  });

  it('reads on what it pipes to others than to res, too', async () => {
    const copied = gate<number>();
    const app = express();
    app.get('/', timeout(30), async (req, res) => {
      await abortOf(req.deadline.signal);
      const file = createReadStream(__filename, { highWaterMark: 100 });
      file.pipe(res);
      buffer(file.pipe(new PassThrough())).then(({ length }) => copied.open(length));
    });
    const connection = await Connection.open((await serve(app)).port);
    expect((await connection.get('/')).status).toBe(504);
    expect(await copied.opened).toBe(statSync(__filename).size);
  });

  it.each<[string, number, (source: Readable, res: Response) => unknown]>([
    ['pipe', 0, (source, res) => source.pipe(res)],
    ['pipeline', 0, (source, res) => pipeline(source, res).catch(() => {})],
    ['pipe, after the answer', 50, (source, res) => source.pipe(res)],
    ['pipeline, after the answer', 50, (source, res) => pipeline(source, res).catch(() => {})],
  ])('does not read for ever from what reads at once: %s', async (_, after, send) => {
    const closed = gate<number>();
    const app = express();
    app.get('/', timeout(30), async (req, res) => {
      await abortOf(req.deadline.signal);
      if (after > 0) await once(res, 'finish');
      let reads = 0;
      const source = new Readable({
        read() {
          if (++reads > 10_000) this.destroy();
          else this.push(Buffer.alloc(16_384));
        },
      });
      source.on('close', () => closed.open(reads));
      send(source, res);
    });
    const connection = await Connection.open((await serve(app)).port);
    expect((await connection.get('/')).status).toBe(504);
    expect(await closed.opened).toBeLessThan(100);
  });
});
