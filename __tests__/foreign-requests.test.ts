import { execFile } from 'node:child_process';
import { EventEmitter, once } from 'node:events';
import http from 'node:http';
import http2 from 'node:http2';
import type { AddressInfo } from 'node:net';
import { connect } from 'node:net';
import path from 'node:path';
import { Readable } from 'node:stream';
import { promisify } from 'node:util';
import type { NextFunction, Request, RequestHandler, Response } from 'express';
import { limitInput, timeout } from 'express-unblock';
import mocks from 'node-mocks-http';
import { Connection, cleanUp, expresses, gate, serve } from './support/keep-alive';

const uncaught: unknown[] = [];
const onUncaught = (error: unknown) => uncaught.push(error);

beforeEach(() => {
  uncaught.length = 0;
  process.on('uncaughtException', onUncaught);
});
afterEach(async () => {
  await cleanUp();
  process.off('uncaughtException', onUncaught);
  expect(uncaught).toEqual([]);
});

/** What others do to a request or its response before, or while, its handler works. */
const redefinitions: [string, (req: Request, res: Response) => unknown][] = [
  ['a req.query that is writable and cannot be redefined', (req) => lock(req, 'query', { ...req.query })],
  ['a req.url that cannot be redefined', (req) => lock(req, 'url', req.url)],
  ['a req.params that cannot be redefined', (req) => lock(req, 'params', req.params)],
  ['a req.baseUrl with accessors of its own', (req) => access(req, 'baseUrl')],
  ['a req.url with accessors of its own', (req) => access(req, 'url')],
  ['a res.send that cannot be replaced', (_req, res) => lock(res, 'send', res.send, false)],
  ['a res.json that cannot be replaced', (_req, res) => lock(res, 'json', res.json, false)],
  ['a res.statusCode with accessors of its own', (_req, res) => access(res, 'statusCode')],
  ['a res.on of its own that cannot be replaced', (_req, res) => lock(res, 'on', res.on, false)],
];

/** What keeps a response from being taken from its handlers: they must not answer all the same. */
const bareOnly: [string, (req: Request, res: Response) => unknown][] = [
  ['a res.end that cannot be replaced', (_req, res) => lock(res, 'end', res.end, false)],
  ['a res.write that cannot be replaced', (_req, res) => lock(res, 'write', res.write, false)],
];

function lock(object: object, name: string, value: unknown, writable = true): void {
  Object.defineProperty(object, name, { value, writable, enumerable: true, configurable: false });
}

function access(object: object, name: string): void {
  let value = (object as Record<string, unknown>)[name];
  Object.defineProperty(object, name, {
    get: () => value,
    set: (to) => {
      value = to;
    },
    configurable: false,
  });
}

describe.each(expresses)('a request that is not as Node alone made it, on %s', (_, express) => {
  const handled: string[] = [];
  beforeEach(() => handled.splice(0));

  async function open(redefine: (req: Request, res: Response) => unknown, handler: RequestHandler = () => {}) {
    const app = express();
    app.get('/next', (_req, res) => void res.send('next'));
    app.use(timeout(40), limitInput(100));
    app.use((req, res, next) => {
      redefine(req, res);
      next();
    });
    app.get('/', handler);
    app.post('/', express.text(), (req, res) => void res.send(req.body));
    app.use((error: { status: number; code: string }, _req: Request, res: Response, _next: NextFunction) => {
      handled.push(error.code);
      res.status(error.status ?? 500).send(error.code ?? String(error));
    });
    return Connection.open((await serve(app)).port);
  }

  it.each(redefinitions)('%s: gets its 504, and its handler is late', async (_, redefine) => {
    const acted = gate<unknown>();
    const connection = await open(redefine, (req, res, next) => {
      req.deadline.signal.addEventListener('abort', () => {
        setImmediate(() => {
          try {
            res.status(200).send('late');
            next();
            acted.open('done');
          } catch (error) {
            acted.open(error);
          }
        });
      });
    });
    expect(await connection.get('/')).toMatchObject({ status: 504, body: 'ERR_UNBLOCK_TIMEOUT' });
    expect(await acted.opened).toBe('done');
    expect((await connection.get('/next')).body).toBe('next');
    expect((await connection.get('/')).status).toBe(504);
  });

  it.each(bareOnly)('%s: gets a bare 504, and nothing of its late handler', async (_, redefine) => {
    const acted = gate();
    const connection = await open(redefine, (req, res) => {
      req.deadline.signal.addEventListener('abort', () => {
        setImmediate(() => {
          try {
            res.status(200).send('late');
          } catch {
            // As Node says of a response that is over.
          }
          acted.open();
        });
      });
    });
    expect(await connection.get('/')).toMatchObject({ status: 504, body: 'Gateway Timeout' });
    await acted.opened;
    expect(handled).toEqual([]);
    expect((await connection.get('/next')).body).toBe('next');
  });

  // Node and Express themselves can hardly serve such a request; a body that was read makes it possible.
  it.each(['preventExtensions', 'seal'] as const)('its handler calls Object.%s: it gets a 504', async (how) => {
    const app = express();
    app.post('/', timeout(40), express.text(), (req) => void Object[how](req));
    app.get('/next', (_req, res) => void res.send('next'));
    app.use((error: { status: number }, _req: Request, res: Response, _next: NextFunction) => {
      res.status(error.status).end();
    });
    const connection = await Connection.open((await serve(app)).port);
    connection.send('POST', '/', { 'Content-Type': 'text/plain', 'Content-Length': 4 }, 'text');
    expect((await connection.answer()).status).toBe(504);
    expect((await connection.get('/next')).body).toBe('next');
  });

  it('has a req.deadline of the app, which is left alone where no timeout() runs', async () => {
    const app = express();
    app.get('/slow', timeout(20), () => {});
    const own: RequestHandler = (req, _res, next) => next(void Object.assign(req, { deadline: 'friday' }));
    app.get('/own', own, (req, res) => void res.send(req.deadline));
    const connection = await Connection.open((await serve(app)).port);
    expect((await connection.get('/slow')).status).toBe(504);
    expect((await connection.get('/own')).body).toBe('friday');
  });

  it('has the same methods on its response after the deadline as before', async () => {
    const methodsOf = (res: Response) => {
      const names = [];
      for (const name in res) if (typeof (res as never)[name] === 'function') names.push(name);
      return names.sort();
    };
    const seen: string[][] = [];
    const connection = await open(
      () => {},
      (req, res) => {
        seen.push(methodsOf(res));
        req.deadline.signal.addEventListener('abort', () => seen.push(methodsOf(res)));
      },
    );
    expect((await connection.get('/')).status).toBe(504);
    expect(seen[1]).toEqual(seen[0]);
  });

  it.each(redefinitions)('%s: gets the 413 of a body that grows too large', async (_, redefine) => {
    const connection = await open(redefine);
    connection.send(
      'POST',
      '/',
      { 'Content-Type': 'text/plain', 'Transfer-Encoding': 'chunked' },
      'a\r\n0123456789\r\n',
    );
    connection.socket.write(`c8\r\n${'x'.repeat(200)}\r\n`);
    expect(await connection.answer()).toMatchObject({ status: 413, body: 'ERR_UNBLOCK_TOO_LARGE' });
  });

  it.each([
    ['timeout', timeout(40)],
    ['limitInput', limitInput(100)],
  ])('says of a request that allows nothing to be put on it that %s cannot hold', (_name, guard) => {
    const req = Object.assign(new http.IncomingMessage(undefined as never), { method: 'POST', url: '/' });
    req.headers = { 'transfer-encoding': 'chunked' };
    const handed: unknown[] = [];
    guard(Object.preventExtensions(req), new http.ServerResponse(req), (error) => handed.push(error));
    expect(handed).toEqual([
      expect.objectContaining({ code: 'ERR_UNBLOCK_BAD_OPTION', message: expect.stringContaining('not extensible') }),
    ]);
  });

  it('lets an error handler answer that others have wrapped the server for, and ignores what follows a refused body', async () => {
    const ran: string[] = [];
    const app = express();
    app.use(limitInput(10));
    app.use((req, res) => {
      ran.push(req.url);
      res.send(req.url);
    });
    const { port, server } = await serve(app);
    const { emit } = server;
    const refuse = async () => {
      const connection = await Connection.open(port);
      connection.send(
        'POST',
        '/large',
        { 'Content-Length': 20 },
        `${'x'.repeat(20)}GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n`,
      );
      expect((await connection.answer()).status).toBe(413);
      await connection.closed;
    };
    await refuse();
    server.emit = emit; // As those do who wrapped it before us and take their own wrapper off.
    await refuse();
    expect(ran).toEqual([]);
  });

  it('needs no connection: light-my-request', async () => {
    const fixture = path.join(__dirname, 'support', 'injected.cjs');
    const name = express === expresses[0][1] ? 'express' : 'express4';
    const { stdout } = await promisify(execFile)(process.execPath, [fixture, name]);
    expect(stdout.trim().split('\n')).toEqual([
      'left false',
      '200 fine',
      '504 ERR_UNBLOCK_TIMEOUT',
      '200 short',
      '413 ERR_UNBLOCK_TOO_LARGE',
    ]);
  });

  it('is an upgrade: has no deadline, and its socket lives on', async () => {
    const app = express();
    const seen: unknown[] = [];
    app.use(timeout(20), limitInput(10));
    app.get('/socket', (req) => {
      seen.push(req.deadline);
      req.socket.write('HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n');
      setTimeout(() => req.socket.write('still here'), 60);
    });
    app.use((error: unknown, _req: Request, _res: Response, _next: NextFunction) => void seen.push(error));
    const { port, server } = await serve(app);
    server.on('upgrade', (req, socket) => {
      socket.on('end', () => socket.destroy());
      const res = new http.ServerResponse(req);
      res.writeHead = ((status: number) => {
        if (status > 101) socket.destroy();
        return res;
      }) as typeof res.writeHead;
      app(req, res);
    });
    const client = connect(port, '127.0.0.1');
    client.write('GET /socket HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: x\r\nContent-Length: 50\r\n\r\n');
    let heard = '';
    client.on('data', (data) => {
      heard += data;
    });
    while (!heard.includes('still here')) await once(client, 'data');
    expect(seen).toEqual([undefined]);
    client.end();
    await once(client, 'close');
  });
});

describe('a request without Express', () => {
  it.each(bareOnly)('%s: gets a bare 504, of which next does not hear', async (_, redefine) => {
    const heard: unknown[] = [];
    const guard = timeout(20);
    const { port } = await serve((req, res) => {
      redefine(req as Request, res as Response);
      guard(req, res, (error) => heard.push(error));
    });
    const connection = await Connection.open(port);
    expect(await connection.get('/')).toMatchObject({ status: 504, body: 'Gateway Timeout' });
    expect(heard).toEqual([undefined]);
  });
});

describe('a request without a server', () => {
  /** The least that middlewares of other frameworks' tests are given. */
  function bare(headers: Record<string, string>) {
    const req = Object.assign(new Readable({ read() {} }), {
      method: 'POST',
      url: '/',
      headers,
      socket: new EventEmitter(),
    });
    const emitter = new EventEmitter();
    const res = Object.assign(emitter, {
      statusCode: 200,
      headersSent: false,
      setHeader() {},
      getHeader() {},
      removeHeader() {},
      end() {
        res.headersSent = true;
        emitter.emit('finish');
        emitter.emit('close');
      },
    });
    return [req, res] as unknown as [http.IncomingMessage, http.ServerResponse];
  }

  function mocked(headers: Record<string, string>) {
    const { req, res } = mocks.createMocks({ method: 'POST', url: '/', headers }, { eventEmitter: EventEmitter });
    return [req, res] as unknown as [http.IncomingMessage, http.ServerResponse];
  }

  function unconnected(headers: Record<string, string>) {
    const req = Object.assign(new http.IncomingMessage(undefined as never), { method: 'POST', url: '/', headers });
    return [req, new http.ServerResponse(req)] as [http.IncomingMessage, http.ServerResponse];
  }

  it('may have no headers, and is told what its response lacks', () => {
    const handed: unknown[] = [];
    const next = (error: unknown) => handed.push((error as { code?: string } | undefined)?.code);
    limitInput(10)({} as http.IncomingMessage, {} as http.ServerResponse, next);
    timeout(10)({} as http.IncomingMessage, {} as http.ServerResponse, next);
    expect(handed).toEqual([undefined, 'ERR_UNBLOCK_BAD_OPTION']);
  });

  describe.each([
    ['a bare mock', bare],
    ['node-mocks-http', mocked],
    ["Node's own classes", unconnected],
  ])('made of %s', (_, make) => {
    it('hands the 504 to next, once', async () => {
      const handed: unknown[] = [];
      const [req, res] = make({});
      await new Promise<void>((resolve) => {
        timeout(20)(req, res, (error) => {
          handed.push((error as { status?: number } | undefined)?.status);
          if (error !== undefined) resolve();
        });
      });
      res.end();
      expect(handed).toEqual([undefined, 504]);
    }, 3_000);

    it('hands on one error, though its body grows too large after its deadline', async () => {
      const handed: number[] = [];
      const [req, res] = make({ 'transfer-encoding': 'chunked' });
      const hear = (error: unknown) => {
        if (error !== undefined) handed.push((error as { status: number }).status);
      };
      await new Promise<void>((resolve) => {
        timeout(20)(req, res, (error) => {
          hear(error);
          if (error === undefined) limitInput(10)(req, res, hear);
          else resolve();
        });
      });
      const before = [...handed];
      req.push?.(Buffer.alloc(11));
      res.end();
      expect(handed).toEqual(before);
      expect(handed.at(-1)).toBe(req.complete === false ? 408 : 504);
    }, 3_000);

    it('is refused where its body cannot be counted, since others have sealed it', () => {
      const handed: unknown[] = [];
      const [req, res] = make({ 'transfer-encoding': 'chunked' });
      timeout(10_000)(req, res, () => {
        limitInput(10)(Object.seal(req), res, (error) => handed.push((error as { code?: string } | undefined)?.code));
      });
      res.end();
      expect(handed).toEqual(['ERR_UNBLOCK_BAD_OPTION']);
    });

    it('hands the 413 of its Content-Length to next', () => {
      const handed: unknown[] = [];
      const [req, res] = make({ 'content-length': '5000' });
      limitInput(100)(req, res, (error) => handed.push((error as { status: number }).status));
      expect(handed).toEqual([413]);
    });

    it('is counted as its body is pushed, or refused where nothing is', async () => {
      const handed: unknown[] = [];
      const [req, res] = make({ 'transfer-encoding': 'chunked' });
      limitInput(10)(req, res, (error) => handed.push((error as { status?: number; code?: string } | undefined)?.code));
      if (typeof req.push !== 'function') {
        expect(handed).toEqual(['ERR_UNBLOCK_BAD_OPTION']);
        return;
      }
      req.push(Buffer.alloc(11));
      expect(handed).toEqual([undefined, 'ERR_UNBLOCK_TOO_LARGE']);
      res.end();
    });
  });
});

describe('a request over HTTP/2', () => {
  it.each([
    ['timeout', timeout(20)],
    ['limitInput', limitInput(10)],
  ])('is refused by %s with an error that says so', async (_, guard) => {
    const server = http2.createServer((req, res) => {
      guard(req as never, res as never, (error) => res.end(String((error as Error | undefined)?.message)));
    });
    server.listen(0);
    await once(server, 'listening');
    const client = http2.connect(`http://localhost:${(server.address() as AddressInfo).port}`);
    const stream = client.request({ ':method': 'POST' });
    stream.end('x'.repeat(100));
    const chunks = await stream.toArray();
    client.close();
    server.close();
    expect(Buffer.concat(chunks).toString()).toMatch(/HTTP\/2.*serve it over HTTP\/1\.1/);
  });
});
