import { once } from 'node:events';
import http, { type IncomingMessage, type ServerResponse } from 'node:http';
import { limitInput, problemDetails } from 'express-unblock';
import { CHUNKED, chunk, closeAll, connectRaw, type Express, expressVersions, head, serve } from './support/raw-http';

const KIB = 1024;
const MIB = 1024 * KIB;

afterEach(closeAll);

describe.each(expressVersions)('the connection of a refused request (%s)', (_name, express) => {
  /** POST /upload is limited to 100 bytes; every request that reaches a handler is noted by its path. */
  async function start(prepare?: (app: ReturnType<Express>) => void) {
    const ran: string[] = [];
    const app = express();
    prepare?.(app);
    app.use(limitInput(100), express.raw({ type: () => true }));
    app.use((req, res) => {
      ran.push(req.url);
      res.send(req.url);
    });
    app.use(problemDetails());
    const port = await serve(app);
    return { ran, port, client: await connectRaw(port) };
  }

  it('is answered in full while the client is still sending', async () => {
    const { client } = await start();
    await client.send(head('POST', '/upload', { 'Content-Length': 5 * MIB }), 'x'.repeat(1000));
    const answer = await client.answer();
    expect(answer.status).toBe(413);
    expect(JSON.parse(answer.body)).toMatchObject({ code: 'ERR_UNBLOCK_TOO_LARGE', limit: 100, expected: 5 * MIB });
    expect(answer.headers.connection).toBe('close');
    await client.send(Buffer.alloc(5 * MIB - 1000));
    expect(await client.closed).toBe('end');
  });

  it("is closed after a long body, whatever the app's own header says", async () => {
    const { client } = await start((app) =>
      app.use((_req, res, next) => next(void res.set('Connection', 'keep-alive'))),
    );
    await client.send(head('POST', '/upload', { 'Content-Length': MIB }));
    expect(await client.answer()).toMatchObject({ status: 413, headers: { connection: 'close' } });
    await client.send(Buffer.alloc(MIB), head('GET', '/secret'));
    expect(await client.closed).toBe('end');
    expect(client.rest()).toBe('');
  });

  it.each([101, 256 * KIB])('serves the next request after draining a body of %i bytes', async (length) => {
    const { client, ran } = await start();
    await client.send(head('POST', '/upload', { 'Content-Length': length }));
    expect(await client.answer()).toMatchObject({ status: 413, headers: { connection: 'keep-alive' } });
    await client.send(Buffer.alloc(length));
    await client.send(head('GET', '/next'));
    expect(await client.answer()).toMatchObject({ status: 200, body: '/next' });
    expect(ran).toEqual(['/next']);
  });

  it('serves the next request after draining the rest of a chunked body', async () => {
    const { client } = await start();
    for (const path of ['/1', '/2', '/3']) {
      await client.send(head('POST', '/upload', CHUNKED), chunk('x'.repeat(101)));
      expect(await client.answer()).toMatchObject({ status: 413, headers: { connection: 'keep-alive' } });
      await client.send(chunk(Buffer.alloc(200 * KIB)), chunk(''));
      await client.send(head('GET', path));
      expect(await client.answer()).toMatchObject({ status: 200, body: path });
    }
  });

  it('ends in an orderly way after a chunked body with more than 256 KiB to come', async () => {
    const { client, ran } = await start();
    await client.send(head('POST', '/upload', CHUNKED), chunk('x'.repeat(101)));
    expect((await client.answer()).status).toBe(413);
    await client.send(chunk(Buffer.alloc(257 * KIB)), chunk(''), head('GET', '/secret'));
    expect(await client.closed).toBe('end');
    expect(client.rest()).toBe('');
    expect(ran).toEqual([]);
  });

  it.each([
    ['behind', 150, ''],
    ['behind several reads of', 200 * KIB, ''],
    ['behind a long', 300 * KIB, ''],
    ['inside', 1000, head('GET', '/secret')],
  ])('never runs a request sent %s an oversize body', async (_where, length, inside) => {
    const { client, ran } = await start();
    const body = inside.repeat(50).slice(0, length).padEnd(length, 'x');
    await client.send(head('POST', '/upload', { 'Content-Length': length }), body, head('GET', '/secret').repeat(3));
    expect((await client.answer()).status).toBe(413);
    expect(await client.closed).toBe('end');
    expect(client.rest()).toBe('');
    expect(ran).toEqual([]);
  });

  it('never runs a request sent behind an oversize chunked body', async () => {
    const { client, ran } = await start();
    const body = Buffer.concat([chunk('x'.repeat(101)), chunk('')]);
    await client.send(head('POST', '/upload', CHUNKED), body, head('GET', '/secret'));
    expect((await client.answer()).status).toBe(413);
    expect(await client.closed).toBe('end');
    expect(ran.filter((path) => path === '/secret')).toEqual([]);
  });

  it('never runs a request behind an oversize body that was sent behind another request', async () => {
    const { client, ran } = await start();
    const body = Buffer.concat([chunk('x'.repeat(101)), chunk('')]);
    await client.send(head('GET', '/first'), head('POST', '/upload', CHUNKED), body, head('GET', '/secret'));
    expect(await client.answer()).toMatchObject({ status: 200, body: '/first' });
    expect((await client.answer()).status).toBe(413);
    expect(await client.closed).toBe('end');
    expect(client.rest()).toBe('');
    expect(ran).toEqual(['/first']);
  });

  it('never runs a request behind the rest of a body for which the connection is closed', async () => {
    const { client, ran } = await start();
    await client.send(head('POST', '/upload', { 'Content-Length': 300 * KIB }));
    expect((await client.answer()).status).toBe(413);
    await client.send(Buffer.alloc(300 * KIB), head('GET', '/secret'), head('GET', '/secret'));
    expect(await client.closed).toBe('end');
    expect(ran).toEqual([]);
  });

  it('never upgrades to another protocol behind an oversize body', async () => {
    const upgraded: string[] = [];
    const app = express();
    app.use(limitInput(100));
    const server = http.createServer(app);
    for (const event of ['upgrade', 'connect']) {
      server.on(event, (_req, socket) => {
        upgraded.push(event);
        socket.destroy();
      });
    }
    const port = await serve(server);
    for (const next of [
      head('GET', '/socket', { Connection: 'Upgrade', Upgrade: 'websocket' }),
      head('CONNECT', 'localhost:22'),
    ]) {
      const client = await connectRaw(port);
      await client.send(head('POST', '/upload', { 'Content-Length': 101 }), 'x'.repeat(101), next);
      expect((await client.answer()).status).toBe(413);
      expect(await client.closed).toBe('end');
    }
    expect(upgraded).toEqual([]);
  });

  it('lets the client read the answer when much follows an oversize body', async () => {
    const { client, ran } = await start();
    client.socket.pause();
    await client.send(head('POST', '/upload', { 'Content-Length': 101 }), 'x'.repeat(101));
    await client.send(head('GET', '/secret').repeat(20_000));
    client.socket.resume();
    expect((await client.answer()).status).toBe(413);
    expect(await client.closed).toBe('end');
    expect(ran).toEqual([]);
  });

  it('answers once when what follows is not HTTP at all', async () => {
    const { client } = await start();
    await client.send(head('POST', '/upload', CHUNKED), chunk('x'.repeat(101)));
    expect((await client.answer()).status).toBe(413);
    for (let i = 0; i < 3; i++) await client.send('this is no chunk\r\n\r\n');
    client.socket.end();
    expect(await client.closed).toBe('end');
    expect(client.rest()).toBe('');
  });

  it('closes soon after a client that ends its side early', async () => {
    const { client } = await start();
    await client.send(head('POST', '/upload', { 'Content-Length': 1000 }), 'x');
    client.socket.end();
    expect((await client.answer()).status).toBe(413);
    expect(await client.closed).toBe('end');
    expect(client.rest()).toBe('');
  });

  it.each([
    ['with a Content-Length', { 'Content-Length': 200 }, 'x'.repeat(200)],
    ['chunked', CHUNKED, Buffer.concat([chunk('x'.repeat(200)), chunk('')])],
  ])('answers a client that ends its side right behind the body (%s)', async (_how, headers, body) => {
    const { client } = await start();
    client.socket.write(Buffer.concat([Buffer.from(head('POST', '/upload', headers)), Buffer.from(body)]));
    client.socket.end();
    expect((await client.answer()).status).toBe(413);
    expect(await client.closed).toBe('end');
  });

  it('says in its answer that it closes when it was told of more', async () => {
    const { client } = await start();
    await client.send(head('POST', '/upload', { 'Content-Length': 150 }), 'x'.repeat(150), head('GET', '/secret'));
    expect(await client.answer()).toMatchObject({ status: 413, headers: { connection: 'close' } });
  });

  it('closes after a bounded time on a client that stops sending', async () => {
    const { client } = await start();
    await client.send(head('POST', '/upload', { 'Content-Length': 1000 }), 'x');
    expect((await client.answer()).status).toBe(413);
    await client.closed;
    expect(client.rest()).toBe('');
  });

  it('closes after a bounded number of bytes on a client that never stops sending nor reads', async () => {
    let server: IncomingMessage['socket'] | undefined;
    const { client } = await start((app) => {
      app.use((req, _res, next) => {
        server = req.socket;
        next();
      });
    });
    client.socket.pause();
    await client.send(head('POST', '/upload', CHUNKED));
    const block = chunk(Buffer.alloc(MIB));
    let sent = 0;
    const pump = () => {
      while (!client.socket.destroyed && client.socket.write(block)) sent++;
    };
    client.socket.on('drain', pump);
    pump();
    await client.closed;
    expect(sent).toBeGreaterThan(0);
    expect(server?.bytesRead).toBeLessThan(1024 * MIB);
  });

  it('reads no more than the bounds even while the error handlers take their time', async () => {
    let answer = () => {};
    const app = express();
    let connection: IncomingMessage['socket'] | undefined;
    app.use(limitInput(100));
    app.use((_error: unknown, req: IncomingMessage, res: ServerResponse, _next: unknown) => {
      connection = req.socket;
      answer = () => {
        res.statusCode = 413;
        res.end('late');
      };
    });
    const client = await connectRaw(await serve(app));
    await client.send(head('POST', '/upload', { 'Content-Length': 1024 * MIB }));
    const block = Buffer.alloc(MIB);
    let sent = 0;
    while (sent < 300 && client.socket.writableLength < 4 * MIB) {
      sent++;
      if (!client.socket.write(block)) {
        const waiting = new AbortController();
        await Promise.race([
          once(client.socket, 'drain', { signal: waiting.signal }).catch(() => {}),
          new Promise((resolve) => setTimeout(resolve, 300)),
        ]);
        waiting.abort();
      }
    }
    expect(sent).toBeLessThan(300);
    expect(connection?.bytesRead).toBeLessThan(66 * MIB);
    answer();
    expect(await client.answer()).toMatchObject({ status: 413, body: 'late' });
  });

  it('is closed by an earlier response that says so, as it would be without the guard', async () => {
    const { client } = await start((app) => {
      app.get('/closing', (_req, res) => {
        setTimeout(() => res.set('Connection', 'close').send('bye'), 20);
      });
    });
    await client.send(head('GET', '/closing'), head('POST', '/upload', { 'Content-Length': 1000 }));
    expect(await client.answer()).toMatchObject({ status: 200, body: 'bye' });
    expect(await client.closed).toBe('end');
  });

  it('survives an error handler that insists on keeping it alive', async () => {
    const app = express();
    app.use(limitInput(100));
    app.use((_error: unknown, _req: IncomingMessage, res: ServerResponse, _next: unknown) => {
      res.removeHeader('Connection');
      res.writeHead(413, { Connection: 'keep-alive', 'Content-Length': 2 });
      res.end('no');
    });
    const client = await connectRaw(await serve(app));
    await client.send(head('POST', '/upload', { 'Content-Length': 300 * KIB }));
    expect(await client.answer()).toMatchObject({ status: 413, body: 'no' });
    await client.send(Buffer.alloc(300 * KIB));
    expect(await client.closed).toBe('end');
  });

  it('is closed after a small body too when the error handler says so', async () => {
    const app = express();
    app.use(limitInput(100));
    app.use((_error: unknown, _req: IncomingMessage, res: ServerResponse, _next: unknown) => {
      res.writeHead(413, { Connection: 'close', 'Content-Length': 2 });
      res.end('no');
    });
    const client = await connectRaw(await serve(app));
    await client.send(head('POST', '/upload', { 'Content-Length': 101 }));
    expect(await client.answer()).toMatchObject({ status: 413, body: 'no' });
    await client.send(Buffer.alloc(101));
    expect(await client.closed).toBe('end');
  });

  it('follows HTTP/1.0, which closes unless asked not to', async () => {
    const { port } = await start();
    const send = async (headers: string) => {
      const client = await connectRaw(port);
      await client.send(`POST /upload HTTP/1.0\r\nContent-Length: 101\r\n${headers}\r\n`);
      expect((await client.answer()).status).toBe(413);
      await client.send('x'.repeat(101));
      return client;
    };
    expect(await (await send('')).closed).toBe('end');
    const kept = await send('Connection: keep-alive\r\n');
    await kept.send('GET /next HTTP/1.0\r\n\r\n');
    expect(await kept.answer()).toMatchObject({ status: 200, body: '/next' });
  });

  it('collects no listeners over many refusals', async () => {
    const warnings: Error[] = [];
    const onWarning = (warning: Error) => warnings.push(warning);
    process.on('warning', onWarning);
    let connection: IncomingMessage['socket'] | undefined;
    const { client } = await start((app) => {
      app.use((req, _res, next) => {
        connection = req.socket;
        next();
      });
    });
    for (let i = 0; i < 30; i++) {
      await client.send(head('POST', '/upload', i % 2 ? CHUNKED : { 'Content-Length': 200 }));
      await client.send(i % 2 ? Buffer.concat([chunk(Buffer.alloc(200)), chunk('')]) : '');
      expect((await client.answer()).status).toBe(413);
      if (i % 2 === 0) await client.send(Buffer.alloc(200));
      await client.send(head('GET', '/next'));
      expect((await client.answer()).status).toBe(200);
    }
    const listeners = connection?.eventNames().map((name) => connection?.listenerCount(name) ?? 0) ?? [];
    expect(Math.max(...listeners)).toBeLessThan(5);
    await new Promise((resolve) => setImmediate(resolve));
    process.off('warning', onWarning);
    expect(warnings).toEqual([]);
  });
});

describe('a client that ends its side of the connection at once', () => {
  it.each([
    ['with a Content-Length', { 'Content-Length': 11 }, 'x'.repeat(11)],
    ['chunked', CHUNKED, chunk('x'.repeat(11))],
  ])('is refused once: %s', async (_, headers, body) => {
    const heard: unknown[] = [];
    const guard = limitInput(10);
    const server = http.createServer((req, res) => {
      guard(req, res, (error) => {
        if (error === undefined) req.resume();
        else {
          heard.push((error as { code: string }).code);
          res.writeHead(413).end();
        }
      });
    });
    const client = await connectRaw(await serve(server));
    await client.send(head('POST', '/', headers), body);
    client.socket.end();
    expect((await client.answer()).status).toBe(413);
    await client.closed;
    expect(heard).toEqual(['ERR_UNBLOCK_TOO_LARGE']);
  });
});

describe.each(expressVersions)('a handler that has answered already (%s)', (_name, express) => {
  it.each(['unread', 'still read'])(
    'keeps its answer when a body %s grows too large after it, and the connection serves on',
    async (how) => {
      const app = express();
      app.use(limitInput(100));
      app.use((req, res) => {
        if (how === 'still read') req.resume();
        res.send(req.url);
      });
      const client = await connectRaw(await serve(app));
      for (const path of ['/1', '/2']) {
        await client.send(head('POST', path, CHUNKED));
        expect(await client.answer()).toMatchObject({ status: 200, body: path });
        await client.send(chunk('x'.repeat(101)));
        await client.send(chunk('x'.repeat(101)), chunk(''));
      }
      await client.send(head('GET', '/3'));
      expect(await client.answer()).toMatchObject({ status: 200, body: '/3' });
    },
  );

  it('has a response that it only began cut off', async () => {
    const errors: unknown[] = [];
    const app = express();
    app.use(limitInput(100));
    app.use((req, res) => {
      req.on('error', () => {});
      req.resume();
      res.set('Content-Length', '1000').write('half');
    });
    app.use((error: unknown, _req: IncomingMessage, _res: ServerResponse, _next: unknown) => errors.push(error));
    const client = await connectRaw(await serve(app));
    await client.send(head('POST', '/', CHUNKED), chunk('x'));
    await once(client.socket, 'data');
    await client.send(chunk('x'.repeat(100)));
    await client.closed;
    expect(client.rest()).toMatch(/half$/);
    expect(errors).toEqual([]);
  });
});
