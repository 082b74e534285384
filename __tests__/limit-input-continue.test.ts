import http from 'node:http';
import type { ErrorRequestHandler, RequestHandler } from 'express';
import { limitInput, problemDetails } from 'express-unblock';
import { CHUNKED, chunk, closeAll, connectRaw, expressVersions, head, type RawClient, serve } from './support/raw-http';

afterEach(closeAll);

const EXPECT = { Expect: '100-continue' };

describe.each(expressVersions)('Expect: 100-continue (%s)', (_name, express) => {
  function createApp() {
    const app = express();
    const raw = express.raw({ type: () => true });
    const show: RequestHandler = (req, res) => void res.send(`read ${req.body.length}`);
    app.post('/guarded', limitInput(100), raw, show);
    app.post('/unguarded', raw, show);
    app.post('/unread', (_req, res) => void res.send('unread'));
    app.post('/late', (req, res) => void setTimeout(() => req.resume().on('end', () => res.send('late')), 20));
    app.post('/guarded-unread', limitInput(100), (_req, res) => void res.send('unread'));
    app.use(problemDetails());
    return app;
  }

  const servers: [string, () => Promise<number>][] = [
    ['app.listen()', () => serve(createApp() as unknown as http.Server)],
    ['http.createServer(app)', () => serve(http.createServer(createApp()))],
  ];

  async function expectContinue(client: RawClient, path: string, length = 50) {
    await client.send(head('POST', path, { ...EXPECT, 'Content-Length': length }));
    expect(await client.answer()).toMatchObject({ status: 100 });
    await client.send('x'.repeat(length));
  }

  describe.each(servers)('on %s', (_server, start) => {
    it('is refused from the very first request on, without a 100', async () => {
      const client = await connectRaw(await start());
      await client.send(head('POST', '/guarded', { ...EXPECT, 'Content-Length': 101 }));
      expect(await client.answer()).toMatchObject({ status: 413, headers: { connection: 'close' } });
      client.socket.end();
      expect(await client.closed).toBe('end');
      expect(client.rest()).toBe('');
    });

    it.each(['/guarded', '/unguarded', '/late'])('gets its 100 and its answer from %s', async (path) => {
      const client = await connectRaw(await start());
      for (let i = 0; i < 3; i++) {
        await expectContinue(client, path);
        const answer = await client.answer();
        expect(answer).toMatchObject({ status: 200, headers: { connection: 'keep-alive' } });
        expect(answer.body).toBe(path === '/late' ? 'late' : 'read 50');
      }
    });

    it('is told to continue once for a chunked body, and refused when it grows too large', async () => {
      const client = await connectRaw(await start());
      await client.send(head('POST', '/guarded', { ...EXPECT, ...CHUNKED }));
      expect((await client.answer()).status).toBe(100);
      await client.send(chunk('x'.repeat(100)));
      await client.send(chunk('x'));
      expect((await client.answer()).status).toBe(413);
      await client.send(chunk(''));
      await expectContinue(client, '/unguarded');
      expect(await client.answer()).toMatchObject({ status: 200 });
    });

    it.each(['/unread', '/guarded-unread'])(
      'is answered without a 100 by a handler that never reads: %s',
      async (path) => {
        const client = await connectRaw(await start());
        await client.send(head('POST', path, { ...EXPECT, 'Content-Length': 50 }));
        expect(await client.answer()).toMatchObject({ status: 200, body: 'unread', headers: { connection: 'close' } });
        client.socket.end();
        expect(await client.closed).toBe('end');
      },
    );

    it.each(['/unread', '/guarded-unread'])('lets a client that does not wait read the answer of %s', async (path) => {
      const client = await connectRaw(await start());
      client.socket.pause();
      const body = [chunk('x'.repeat(200)), chunk(Buffer.alloc(1_000_000)), chunk('')];
      await client.send(head('POST', path, { ...EXPECT, ...CHUNKED }), body[0] as Buffer);
      await client.send(...body.slice(1), head('POST', '/unguarded', { 'Content-Length': 0 }));
      client.socket.resume();
      expect(await client.answer()).toMatchObject({ status: 200, body: 'unread' });
      expect(await client.closed).toBe('end');
      expect(client.rest()).toBe('');
    });
  });

  it.each(['/unread', '/guarded-unread'])(
    'lets a client read the answer of %s that sends its body after it',
    async (path) => {
      const server = http.createServer(createApp());
      const answered = new Promise<void>((resolve) => {
        server.prependListener('request', (_req, res) => res.on('finish', resolve));
      });
      const client = await connectRaw(await serve(server));
      client.socket.pause();
      await client.send(head('POST', path, { ...EXPECT, 'Content-Length': 100 }));
      await answered;
      // Sent to a connection that is closed, the first part would bring a reset, which takes the answer away.
      await client.send('x'.repeat(50));
      await new Promise(setImmediate);
      await client.send('x'.repeat(50));
      client.socket.resume();
      expect(await client.answer()).toMatchObject({ status: 200, body: 'unread' });
      expect(await client.closed).toBe('end');
    },
  );

  it.each<[string, RequestHandler]>([
    ['its first bytes', (req, res) => void (res.write('<') && req.pipe(res))],
    [
      'the head',
      (req, res) => {
        res.flushHeaders();
        req.pipe(res);
      },
    ],
    ['nothing yet of a head that is made', (req, res) => void req.pipe(res.writeHead(200))],
  ])('is told to continue by a handler that has sent %s when it reads', async (_what, handler) => {
    const app = express();
    app.post('/', handler);
    const client = await connectRaw(await serve(app));
    await client.send(head('POST', '/', { ...EXPECT, 'Content-Length': 5 }));
    expect(await client.answer()).toMatchObject({ status: 100 });
    await client.send('hello');
    client.socket.end();
    expect(await client.closed).toBe('end');
    expect(client.rest()).toMatch(/^HTTP\/1\.1 200 .*hello.*\r\n0\r\n\r\n$/s);
  });

  it.each<[string, RequestHandler]>([
    [
      'in pieces',
      (_req, res) => {
        res.status(403).write('no');
        setImmediate(() => res.end());
      },
    ],
    [
      'whose handler reads after its first piece',
      (req, res) => {
        res.status(403).write('no');
        req.resume();
        setImmediate(() => res.end());
      },
    ],
    [
      'whose handler reads after it',
      (req, res) => {
        res.status(403).end('no');
        req.resume();
      },
    ],
  ])('is refused without a 100 by an answer %s', async (_how, handler) => {
    const app = express();
    app.post('/', handler);
    const client = await connectRaw(await serve(app));
    await client.send(head('POST', '/', { ...EXPECT, 'Content-Length': 5 }));
    client.socket.end();
    expect(await client.closed).toBe('end');
    expect(client.rest()).toMatch(/^HTTP\/1\.1 403 .*\r\nConnection: close\r\n/s);
    expect(client.rest()).not.toContain('100 Continue');
  });

  it('is not told to send the body that was refused, whatever status the answer has', async () => {
    const app = express();
    app.use(limitInput(4));
    const answer: ErrorRequestHandler = (_error, _req, res, _next) => {
      res.status(200).write('too long');
      setImmediate(() => res.end());
    };
    app.use(answer);
    const client = await connectRaw(await serve(app));
    await client.send(head('POST', '/', { ...EXPECT, 'Content-Length': 5 }));
    client.socket.end();
    expect(await client.closed).toBe('end');
    expect(client.rest()).toMatch(/^HTTP\/1\.1 200 .*\r\nConnection: close\r\n/s);
  });

  it.each<[string, RequestHandler]>([
    ['set', (_req, res) => void res.set('Connection', 'keep-alive').send('unread')],
    ['in its head', (_req, res) => void res.writeHead(200, { connection: 'keep-alive' }).end()],
    ['in a list', (_req, res) => void res.writeHead(200, ['Connection', 'keep-alive', 'X-Kind', 'list']).end()],
    ['beside a limit', (req, res) => limitInput(10)(req, res.set('Connection', 'keep-alive'), () => res.send('over'))],
  ])('never takes the next request for the body, though the app has a keep-alive header %s', async (_how, handler) => {
    const urls: string[] = [];
    const app = express();
    app.use((req, _res, next) => {
      urls.push(req.url);
      next();
    });
    app.post('/', handler);
    const client = await connectRaw(await serve(app));
    const next = head('GET', '/next');
    await client.send(head('POST', '/', { ...EXPECT, 'Content-Length': next.length }));
    expect(await client.answer()).toMatchObject({ status: 200, headers: { connection: 'close' } });
    await client.send(next, head('GET', '/secret'));
    expect(await client.closed).toBe('end');
    expect(client.rest()).toBe('');
    expect(urls).toEqual(['/']);
  });

  it.each([
    ['before the first request', 'on', true],
    ['after the first request', 'on', false],
    ['for one request, before the first', 'once', true],
    ['for one request, after the first', 'once', false],
  ] as const)("leaves it to a checkContinue listener of the user's own, added %s", async (_when, add, first) => {
    const server = http.createServer(createApp());
    const heard: (string | undefined)[] = [];
    const listen = () =>
      server[add]('checkContinue', (req: http.IncomingMessage, res: http.ServerResponse) => {
        heard.push(req.url);
        res.writeHead(417, { 'Content-Length': 0 }).end();
      });
    if (first) listen();
    const client = await connectRaw(await serve(server));
    if (!first) {
      await expectContinue(client, '/unguarded');
      expect((await client.answer()).status).toBe(200);
      listen();
    }
    await client.send(head('POST', '/guarded', { ...EXPECT, 'Content-Length': 0 }));
    expect((await client.answer()).status).toBe(417);
    expect(heard).toEqual(['/guarded']);
    expect(client.rest()).toBe('');
  });

  it('of another kind is for Node to refuse', async () => {
    const client = await connectRaw(await serve(createApp()));
    await client.send(head('POST', '/unguarded', { Expect: 'a miracle', 'Content-Length': 0 }));
    expect((await client.answer()).status).toBe(417);
    await expectContinue(client, '/unguarded');
    expect(await client.answer()).toMatchObject({ status: 200 });
  });
});
