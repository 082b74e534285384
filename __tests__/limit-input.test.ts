import { AsyncLocalStorage } from 'node:async_hooks';
import { channel } from 'node:diagnostics_channel';
import { EventEmitter, once } from 'node:events';
import { createWriteStream, type WriteStream } from 'node:fs';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { IncomingMessage, ServerResponse } from 'node:http';
import { Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { finished, PassThrough, pipeline as pipelineWithCallback } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { gzipSync } from 'node:zlib';
import type { ErrorRequestHandler, Request, RequestHandler } from 'express';
import { limitInput, problemDetails, timeout } from 'express-unblock';
import multer from 'multer';
import { CHUNKED, chunk, closeAll, connectRaw, expressVersions, head, serve } from './support/raw-http';

afterEach(closeAll);

describe('the options of limitInput', () => {
  it.each([
    [() => limitInput(undefined as never), 'limitInput: max must be a number of bytes such as 1024 or "100kb"'],
    [() => limitInput(-1), 'got -1'],
    [() => limitInput(Number.NaN), 'got NaN'],
    [() => limitInput(Number.POSITIVE_INFINITY), 'got Infinity'],
    [() => limitInput('many'), 'got "many"'],
    [() => limitInput(''), 'got ""'],
    [() => limitInput('1mb', { depth: 3 } as never), 'unknown option "depth", expected of or json'],
    [() => limitInput('1mb', null as never), 'limitInput: options must be an object, got null'],
    [() => limitInput('1mb', { of: 'body' as never }), 'limitInput: of must be a function, got "body"'],
    [() => limitInput('1mb', { json: 32 as never }), 'must be an object, got 32'],
    [() => limitInput('1mb', { json: { key: 1 } as never }), 'unknown option "key", expected depth or keys'],
    [
      () => limitInput('1mb', { json: { depth: -1 } }),
      'limitInput: json.depth must be an integer of 0 or more, got -1',
    ],
    [
      () => limitInput('1mb', { json: { keys: 1.5 } }),
      'limitInput: json.keys must be an integer of 0 or more, got 1.5',
    ],
    [() => limitInput(1, { of: () => 1, json: { depth: 1 } }), 'limitInput: json must be left out beside of'],
  ])('are refused where they are written: %s', (configure, message) => {
    expect(configure).toThrow(message);
    expect(configure).toThrow(expect.objectContaining({ name: 'TypeError', code: 'ERR_UNBLOCK_BAD_OPTION' }));
  });

  it('say what to write where limitInput itself is taken for a middleware', () => {
    const req = new IncomingMessage(new Socket());
    expect(() => limitInput(req as never, new ServerResponse(req) as never)).toThrow(
      "limitInput: makes a middleware and is none; write app.use(limitInput('1mb'))",
    );
  });

  it('take undefined for the default', () => {
    const middleware = limitInput('100kb', { of: undefined, json: undefined });
    expect(middleware.name).toBe('limitInputMiddleware');
  });
});

describe('limitInput of a measure', () => {
  /** What `limitInput(max, { of })` hands to `next`. */
  function outcome(max: number, of: () => unknown): unknown[] {
    const req = new IncomingMessage(new Socket());
    const handed: unknown[][] = [];
    limitInput(max, { of })(req, new ServerResponse(req), (...args) => handed.push(args));
    expect(handed).toHaveLength(1);
    return handed[0] ?? [];
  }

  it.each<[string, (size: number) => unknown]>([
    ['characters of a string', (size) => 'x'.repeat(size)],
    ['characters, not their units', (size) => '😀'.repeat(size)],
    ['items of an array', (size) => Array(size).fill('long')],
    ['bytes of a Buffer', (size) => Buffer.alloc(size)],
    ['bytes of a typed array', (size) => new Uint16Array(size / 2)],
    ['bytes of an ArrayBuffer', (size) => new ArrayBuffer(size)],
    ['bytes of a DataView', (size) => new DataView(new ArrayBuffer(size))],
    ['entries of a Map', (size) => new Map(Array.from({ length: size }, (_, i) => [i, i]))],
    ['entries of a Set', (size) => new Set(Array(size).keys())],
    ['a number as the size itself', (size) => size],
  ])('counts the %s', (_what, make) => {
    expect(outcome(4, () => make(4))).toEqual([]);
    expect(outcome(4, () => make(6))).toEqual([
      expect.objectContaining({
        status: 413,
        code: 'ERR_UNBLOCK_TOO_LARGE',
        type: 'entity.too.large',
        limit: 4,
        received: 6,
      }),
    ]);
  });

  it.each([undefined, null, '', 0, [], Buffer.alloc(0), new Map()])('takes nothing (%p) for size 0', (nothing) => {
    expect(outcome(0, () => nothing)).toEqual([]);
  });

  it.each<[string, unknown]>([
    ['an object that claims a size', { size: 0, byteLength: 0, length: 0 }],
    ['true', true],
    ['a negative number', -1],
    ['NaN', Number.NaN],
    ['a promise', Promise.resolve('x')],
    ['a function', () => 1],
  ])('lets nothing through that it cannot measure: %s', (_what, value) => {
    expect(outcome(100, () => value)).toEqual([expect.objectContaining({ name: 'TypeError', status: 400 })]);
  });

  it('hands what the measuring function throws to next', () => {
    const error = new Error('no text');
    const throwing = (thrown: unknown) => () => {
      throw thrown;
    };
    expect(outcome(100, throwing(error))).toEqual([error]);
    for (const odd of [undefined, null, 0, 'route']) {
      expect(outcome(100, throwing(odd))).toEqual([expect.objectContaining({ name: expect.stringMatching(/Error$/) })]);
    }
  });
});

describe.each(expressVersions)('limitInput on the wire (%s)', (_name, express) => {
  interface Setup {
    before?: RequestHandler[];
    after?: RequestHandler[];
    limit?: RequestHandler;
    handler?: RequestHandler;
  }

  /** An app limited to 100 bytes that notes every error and every request that reached its handler. */
  async function start({ before = [], limit = limitInput(100), after = [], handler }: Setup = {}) {
    const ran: string[] = [];
    const errors: Array<Record<string, unknown>> = [];
    const app = express();
    app.use(...before, limit, ...after, (req, _res, next) => {
      ran.push(req.url);
      next();
    });
    app.use(handler ?? ((req, res) => void res.send(`${req.method} ${String(req.body?.length ?? '')}`)));
    const note: ErrorRequestHandler = (error, _req, _res, next) => {
      errors.push(error);
      next(error);
    };
    app.use(note, problemDetails());
    const port = await serve(app);
    return { ran, errors, port, client: await connectRaw(port) };
  }

  const raw = express.raw({ type: () => true });
  const refusal = {
    status: 413,
    code: 'ERR_UNBLOCK_TOO_LARGE',
    type: 'entity.too.large',
    limit: 100,
    measure: 'bytes',
  };

  it('lets exactly max bytes pass, with and without a Content-Length', async () => {
    const { client, errors } = await start({ after: [raw] });
    const body = 'x'.repeat(100);
    await client.send(head('POST', '/', { 'Content-Length': 100 }), body);
    expect(await client.answer()).toMatchObject({ status: 200, body: 'POST 100' });
    await client.send(head('POST', '/', CHUNKED), chunk(body.slice(0, 99)), chunk('x'), chunk(''));
    expect(await client.answer()).toMatchObject({ status: 200, body: 'POST 100' });
    expect(errors).toEqual([]);
  });

  it('refuses by Content-Length alone, before a byte of the body is there', async () => {
    const { client, errors, ran } = await start({ after: [raw] });
    await client.send(head('POST', '/', { 'Content-Length': 101, 'Content-Type': 'application/x-unheard-of' }));
    expect((await client.answer()).status).toBe(413);
    expect(errors).toEqual([expect.objectContaining({ ...refusal, expected: 101 })]);
    expect(errors[0]).not.toHaveProperty('received');
    expect(ran).toEqual([]);
  });

  it('refuses a chunked body at the byte after max, however it is cut', async () => {
    for (const sizes of [[101], [100, 1], [1, 99, 1], [50, 51]]) {
      const { client, errors, ran } = await start({ after: [raw] });
      for (const [index, size] of sizes.entries()) {
        expect(errors).toEqual([]);
        await client.send(index === 0 ? head('POST', '/', CHUNKED) : '', chunk('x'.repeat(size)));
      }
      expect((await client.answer()).status).toBe(413);
      expect(errors).toEqual([expect.objectContaining({ ...refusal, received: 101 })]);
      expect(ran).toEqual([]);
    }
  });

  it('passes nothing unmeasured behind what has read the body already, and says what is wrong', async () => {
    for (const limit of [limitInput(100), limitInput(100, { json: { depth: 1 } })]) {
      const { client, errors, ran } = await start({ before: [express.json()], limit });
      const headers = { ...CHUNKED, 'Content-Type': 'application/json' };
      await client.send(head('POST', '/', headers), chunk('[[]]'), chunk(''));
      expect((await client.answer()).status).toBe(500);
      expect(errors).toEqual([
        expect.objectContaining({
          code: 'ERR_UNBLOCK_BAD_OPTION',
          message:
            'limitInput: must stand in front of what reads the body; behind it, pick what to measure with the option of',
        }),
      ]);
      expect(ran).toEqual([]);
    }
  });

  it('has nothing against what has read the body where nothing is left to measure', async () => {
    const { client, errors } = await start({ before: [raw] });
    await client.send(head('POST', '/', { 'Content-Length': 100 }), 'x'.repeat(100));
    expect(await client.answer()).toMatchObject({ status: 200, body: 'POST 100' });
    await client.send(head('POST', '/', CHUNKED), chunk(''));
    expect((await client.answer()).status).toBe(200);
    expect(errors).toEqual([]);
  });

  it('does not ask for the charset of a body whose shape it does not limit', async () => {
    const { client } = await start({ after: [raw] });
    const type = 'application/json; charset=utf-16le';
    await client.send(head('POST', '/', { 'Content-Type': type, 'Content-Length': 4 }), Buffer.from('[]', 'utf16le'));
    expect(await client.answer()).toMatchObject({ status: 200, body: 'POST 4' });
  });

  it("calls the error handlers in the app's own async context, though a body arrives outside of it", async () => {
    const storage = new AsyncLocalStorage<string>();
    const app = express();
    app.use((_req, _res, next) => storage.run('of the app', next), limitInput(3), raw);
    const answer: ErrorRequestHandler = (error, _req, res, _next) =>
      void res.status(error.status).send(storage.getStore());
    app.use(answer);
    const client = await connectRaw(await serve(app));
    await client.send(head('POST', '/', CHUNKED), chunk('one'));
    await client.send(chunk('more'));
    expect(await client.answer()).toMatchObject({ status: 413, body: 'of the app' });
  });

  it('leaves an answer whole that the handler has ended before the body grew too large', async () => {
    const text = 'x'.repeat(4 * 1024 * 1024);
    const { client } = await start({ handler: (_req, res) => void res.send(text) });
    await client.send(head('POST', '/', CHUNKED), chunk('begun'));
    await client.send(chunk('x'.repeat(101)));
    expect(await client.answer()).toMatchObject({ status: 200, body: text });
  });

  it('asks a function for the limit of each request', async () => {
    const limit = limitInput((req) => (req.headers['x-plan'] === 'large' ? '1kb' : 100));
    const { client, errors } = await start({ limit, after: [raw] });
    const body = 'x'.repeat(101);
    for (const framing of [{ 'Content-Length': 101 }, CHUNKED]) {
      const sent = framing === CHUNKED ? Buffer.concat([chunk(body), chunk('')]) : body;
      await client.send(head('POST', '/', { ...framing, 'X-Plan': 'large' }), sent);
      expect(await client.answer()).toMatchObject({ status: 200, body: 'POST 101' });
      await client.send(head('POST', '/', framing), sent);
      expect((await client.answer()).status).toBe(413);
    }
    expect(errors).toEqual([expect.objectContaining({ limit: 100 }), expect.objectContaining({ limit: 100 })]);
  });

  it('hands what the function of the request throws, or a limit that is none, to the error handlers', async () => {
    const thrower = () => {
      throw Object.assign(new Error('no plan'), { status: 418 });
    };
    for (const [max, status] of [
      [thrower, 418],
      [() => 'much', 500],
    ] as const) {
      for (const options of [{}, { of: () => 'text' }]) {
        const { client, ran } = await start({ limit: limitInput(max, options) });
        await client.send(head('POST', '/', { 'Content-Length': 0 }));
        expect((await client.answer()).status).toBe(status);
        expect(ran).toEqual([]);
      }
    }
  });

  it.each(['route', undefined])(
    'makes an error of what is none, thrown by the function of the request: %p',
    async (thrown) => {
      const thrower = () => {
        throw thrown;
      };
      for (const options of [{}, { of: () => 'text' }]) {
        const { client, ran } = await start({ limit: limitInput(thrower, options) });
        await client.send(head('GET', '/'));
        expect((await client.answer()).status).toBe(500);
        expect(ran).toEqual([]);
      }
    },
  );

  it('takes 0 for a limit: no body at all', async () => {
    const { client } = await start({ limit: limitInput(0), after: [raw] });
    await client.send(head('GET', '/'));
    expect((await client.answer()).status).toBe(200);
    await client.send(head('POST', '/', { 'Content-Length': 0 }));
    expect((await client.answer()).status).toBe(200);
    await client.send(head('POST', '/', CHUNKED), chunk(''));
    expect((await client.answer()).status).toBe(200);
    await client.send(head('POST', '/', CHUNKED), chunk('x'));
    expect((await client.answer()).status).toBe(413);
  });

  it('answers by Express itself in an app without error handlers', async () => {
    const app = express();
    app.set('env', 'test');
    app.use(limitInput(100), raw);
    const client = await connectRaw(await serve(app));
    await client.send(head('POST', '/', CHUNKED), chunk('x'.repeat(101)));
    expect(await client.answer()).toMatchObject({ status: 413 });
    await client.send(chunk(''), head('POST', '/', { 'Content-Length': 1000 }));
    expect(await client.answer()).toMatchObject({ status: 413 });
  });

  describe('with a body beyond the limit, to a handler that', () => {
    it.each<[string, RequestHandler]>([
      ['never reads', () => {}],
      ['reads half', (req) => void req.once('data', () => req.pause())],
      ['reads with events', (req, res) => void req.on('data', () => {}).on('end', () => res.send('whole'))],
      [
        'ignores errors',
        (req, res) =>
          void req
            .on('error', () => {})
            .on('end', () => res.send('whole'))
            .resume(),
      ],
      ['waits for the readable event', (req) => void req.on('readable', () => req.read(10))],
      [
        'decodes',
        (req, res) =>
          void req
            .setEncoding('utf8')
            .on('data', () => {})
            .on('end', () => res.send('whole')),
      ],
    ])('%s, one 413 is the answer', async (_how, handler) => {
      const { client, errors } = await start({ handler });
      for (let i = 0; i < 2; i++) {
        await client.send(head('POST', '/', CHUNKED), chunk('x'.repeat(60)));
        await client.send(chunk('x'.repeat(60)));
        expect(await client.answer()).toMatchObject({ status: 413 });
        await client.send(chunk(''));
      }
      expect(errors).toEqual([expect.objectContaining(refusal), expect.objectContaining(refusal)]);
      expect(client.rest()).toBe('');
    });

    it('iterates, the loop ends with an error and its own answer goes nowhere', async () => {
      const ended = new EventEmitter();
      const { client, errors } = await start({
        handler: async (req, res) => {
          try {
            for await (const _ of req) {
            }
          } catch (error) {
            res.status(500).send('failed');
            ended.emit('failed', error);
          }
        },
      });
      const failed = once(ended, 'failed');
      await client.send(head('POST', '/', CHUNKED), chunk('x'.repeat(60)));
      await client.send(chunk('x'.repeat(60)));
      expect(await client.answer()).toMatchObject({ status: 413 });
      expect(await failed).toMatchObject([{ code: 'ERR_STREAM_PREMATURE_CLOSE' }]);
      await client.send(chunk(''), head('GET', '/'));
      expect(errors).toHaveLength(1);
    });

    it('pipes into a file, no more than max bytes are written, and pipeline() closes the file', async () => {
      const folder = await mkdtemp(join(tmpdir(), 'limit-input-'));
      const file = join(folder, 'upload');
      for (const piping of ['pipe', 'pipeline'] as const) {
        const uploads = new EventEmitter();
        const opened = once(uploads, 'open');
        const { client, errors } = await start({
          handler: (req, res) => {
            const target = createWriteStream(file);
            target.on('error', () => {}).once('ready', () => uploads.emit('open', target));
            if (piping === 'pipe') req.pipe(target).on('finish', () => res.send('whole'));
            else
              pipeline(req, target).then(
                () => res.send('whole'),
                () => res.status(500).send('failed'),
              );
          },
        });
        await client.send(head('POST', '/', CHUNKED), chunk('x'.repeat(60)));
        const [target] = (await opened) as [WriteStream];
        const closed = new Promise<void>((resolve) => target.once('close', () => resolve()));
        await client.send(chunk('x'.repeat(60)));
        expect(await client.answer()).toMatchObject({ status: 413 });
        if (piping === 'pipe') target.destroy();
        await closed;
        expect((await readFile(file)).length).toBeLessThanOrEqual(100);
        expect(errors).toHaveLength(1);
      }
      await rm(folder, { recursive: true });
    });

    it.each<[string, RequestHandler]>([
      [
        'answers in the callback of a pipeline',
        (req, res) => void pipelineWithCallback(req, new PassThrough().resume(), () => res.status(400).send('own')),
      ],
      [
        'hands the error of a pipeline on',
        (req, res, next) => {
          pipelineWithCallback(req, new PassThrough().resume(), (error) => (error ? next(error) : res.send('whole')));
        },
      ],
      ['answers when the body is closed', (req, res) => void req.resume().on('close', () => res.send('own'))],
      ['answers when the body is finished', (req, res) => void finished(req.resume(), () => res.send('own'))],
      [
        'reads it with for await',
        async (req, res, next) => {
          try {
            for await (const _ of req);
            res.send('whole');
          } catch (error) {
            next(error);
          }
        },
      ],
    ])('%s, the error handlers answer all the same', async (_, handler) => {
      const { client, errors } = await start({ handler });
      await client.send(head('POST', '/', CHUNKED), chunk('x'.repeat(101)), chunk(''));
      expect((await client.answer()).status).toBe(413);
      await client.send(head('GET', '/'));
      await client.answer();
      expect(errors[0]).toMatchObject(refusal);
    });

    it('streams it back, the client is cut off rather than told that it is whole', async () => {
      const { client } = await start({ handler: (req, res) => void req.pipe(res) });
      await client.send(head('POST', '/', CHUNKED), chunk('x'.repeat(60)));
      await once(client.socket, 'data');
      await client.send(chunk('x'.repeat(60)));
      await client.closed;
      expect(client.rest()).toMatch(/^HTTP\/1\.1 200 OK/);
      expect(client.rest()).not.toContain('\r\n0\r\n');
    });
  });

  describe('together with', () => {
    const json = JSON.stringify({ text: 'x'.repeat(200) });
    const boundary = 'b0undary';
    const form = [
      `--${boundary}\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n`,
      `Content-Type: text/plain\r\n\r\n${'x'.repeat(200)}\r\n--${boundary}--\r\n`,
    ].join('');
    const multipart = `multipart/form-data; boundary=${boundary}`;
    const file = multer({ storage: multer.memoryStorage() }).single('file');
    const showFile: RequestHandler = (req, _res, next) => {
      req.body = (req as Request & { file: { buffer: Buffer } }).file.buffer;
      next();
    };
    const parsers: [string, RequestHandler[], string, string][] = [
      ['express.json', [express.json()], 'application/json', json],
      ['express.urlencoded', [express.urlencoded({ extended: false })], 'application/x-www-form-urlencoded', 'a=1&b=2'],
      ['express.raw', [raw], 'application/octet-stream', 'x'.repeat(200)],
      ['express.text', [express.text()], 'text/plain', 'x'.repeat(200)],
      ['multer', [file, showFile], multipart, form],
    ];

    it.each(parsers)('%s, a body within the limit arrives whole, cut anywhere', async (_name, after, type, body) => {
      let parsed: unknown;
      const { client } = await start({
        limit: limitInput(body.length, { json: { depth: 5, keys: 5 } }),
        after,
        handler: (req, res) => {
          parsed = req.body;
          res.send('ok');
        },
      });
      await client.send(head('POST', '/', { 'Content-Type': type, 'Content-Length': body.length }), body);
      expect(await client.answer()).toMatchObject({ status: 200, body: 'ok' });
      const whole = parsed;
      expect(whole).toBeTruthy();
      await client.send(head('POST', '/', { 'Content-Type': type, ...CHUNKED }));
      for (let at = 0; at < body.length; at += 17) await client.send(chunk(body.slice(at, at + 17)));
      await client.send(chunk(''));
      expect(await client.answer()).toMatchObject({ status: 200, body: 'ok' });
      expect(parsed).toEqual(whole);
    });

    it.each(parsers)('%s, a body beyond it never reaches the handler', async (_name, after, type, body) => {
      const { client, ran, errors } = await start({ limit: limitInput(body.length - 1), after });
      await client.send(head('POST', '/', { 'Content-Type': type, 'Content-Length': body.length }), body);
      expect(await client.answer()).toMatchObject({ status: 413 });
      await client.send(head('POST', '/', { 'Content-Type': type, ...CHUNKED }));
      for (let at = 0; at < body.length; at += 17) await client.send(chunk(body.slice(at, at + 17)));
      expect(await client.answer()).toMatchObject({ status: 413 });
      await client.send(chunk(''), head('GET', '/'));
      expect(errors).toHaveLength(2);
      expect(ran).toEqual([]);
    });

    it('express.json, compressed bytes are counted as they are on the wire and its own limit bounds the rest', async () => {
      const bomb = gzipSync(JSON.stringify({ text: 'x'.repeat(1_000_000) }));
      const { client, errors } = await start({
        limit: limitInput(bomb.length),
        after: [express.json({ limit: 10_000 })],
      });
      const headers = { 'Content-Type': 'application/json', 'Content-Encoding': 'gzip' };
      await client.send(head('POST', '/', { ...headers, 'Content-Length': bomb.length }), bomb);
      expect(await client.answer()).toMatchObject({ status: 413 });
      expect(errors).toEqual([expect.objectContaining({ type: 'entity.too.large', limit: 10_000 })]);
      expect(errors[0]).not.toHaveProperty('code', 'ERR_UNBLOCK_TOO_LARGE');
    });

    it('another limitInput on a route, each limits on its own', async () => {
      const { client, errors } = await start({ limit: limitInput(200), after: [limitInput(100), raw] });
      await client.send(head('POST', '/', CHUNKED), chunk('x'.repeat(101)), chunk(''));
      expect(await client.answer()).toMatchObject({ status: 413 });
      expect(errors).toEqual([expect.objectContaining({ limit: 100 })]);

      const reversed = await start({ limit: limitInput(100), after: [limitInput(200), raw] });
      await reversed.client.send(head('POST', '/', CHUNKED), chunk('x'.repeat(101)));
      expect(await reversed.client.answer()).toMatchObject({ status: 413 });
      await reversed.client.send(chunk('x'.repeat(101)), chunk(''), head('POST', '/', CHUNKED), chunk('x'.repeat(150)));
      expect(await reversed.client.answer()).toMatchObject({ status: 413 });
      expect(reversed.errors).toEqual([
        expect.objectContaining({ limit: 100 }),
        expect.objectContaining({ limit: 100 }),
      ]);
    });

    it('timeout, a stalled upload is answered once and by the deadline', async () => {
      const { client, errors } = await start({ before: [timeout(50) as unknown as RequestHandler], after: [raw] });
      await client.send(head('POST', '/', { 'Content-Length': 100 }), 'x');
      expect(await client.answer()).toMatchObject({ status: 408 });
      const chunked = await start({ before: [timeout(50) as unknown as RequestHandler], after: [raw] });
      await chunked.client.send(head('POST', '/', CHUNKED), chunk('x'));
      expect(await chunked.client.answer()).toMatchObject({ status: 408 });
      await chunked.client.send(chunk('x'.repeat(200)), chunk(''));
      expect(chunked.errors).toEqual([expect.objectContaining({ code: 'ERR_UNBLOCK_UPLOAD_TIMEOUT' })]);
      expect(errors).toHaveLength(1);
      expect(chunked.client.rest()).toBe('');
    });

    it('timeout, a refusal is answered once though its deadline passes later', async () => {
      const { client, errors } = await start({ before: [timeout(50) as unknown as RequestHandler], after: [raw] });
      await client.send(head('POST', '/', CHUNKED), chunk('x'.repeat(101)));
      expect(await client.answer()).toMatchObject({ status: 413 });
      await new Promise((resolve) => setTimeout(resolve, 80));
      expect(errors).toEqual([expect.objectContaining({ status: 413 })]);
      await client.send(chunk(''), head('GET', '/'));
      expect(await client.answer()).toMatchObject({ status: 200 });
    });
  });

  describe('behind a middleware that waits while the body comes in', () => {
    /** Waits until `length` bytes of the body are buffered, or all of it is. */
    const waitFor =
      (length: number): RequestHandler =>
      (req, _res, next) => {
        const look = setInterval(() => {
          if (req.readableLength < length && !req.complete) return;
          clearInterval(look);
          next();
        }, 1);
      };

    it.each(['application/json', 'text/plain'])('counts what is there already (%s)', async (type) => {
      const limit = limitInput(100, { json: { depth: 3 } });
      const headers = { 'Content-Type': type, ...CHUNKED };
      for (const [there, later] of [
        [101, ''],
        [60, 'x'.repeat(41)],
        [100, 'x'],
      ] as const) {
        const { client, ran, errors } = await start({ before: [waitFor(there)], limit, after: [raw] });
        await client.send(head('POST', '/', headers), chunk('x'.repeat(there)));
        if (later !== '') await client.send(chunk(later));
        expect(await client.answer()).toMatchObject({ status: 413 });
        await client.send(chunk(''), head('GET', '/'));
        expect(errors).toEqual([expect.objectContaining({ ...refusal, received: 101 })]);
        expect(ran).toEqual([]);
      }
    });

    it.each(['application/json', 'text/plain'])('refuses a body that is there as a whole (%s)', async (type) => {
      const limit = limitInput(100, { json: { depth: 3 } });
      const { client, ran } = await start({ before: [waitFor(1000)], limit, after: [raw] });
      await client.send(head('POST', '/', { 'Content-Type': type, ...CHUNKED }), chunk('x'.repeat(101)), chunk(''));
      expect(await client.answer()).toMatchObject({ status: 413 });
      await client.send(head('GET', '/next'));
      expect(await client.answer()).toMatchObject({ status: 200 });
      expect(ran).toEqual(['/next']);
    });

    it.each([
      ['application/json', 'complete', chunk('')],
      ['application/json', 'to be continued', Buffer.alloc(0)],
      ['text/plain', 'complete', chunk('')],
      ['text/plain', 'to be continued', Buffer.alloc(0)],
    ])('hands on every byte that is there (%s, %s)', async (type, _state, end) => {
      const text = '{"a":[1,2,{"é":"ü"}]}';
      const { client } = await start({
        before: [waitFor(Buffer.byteLength(text))],
        limit: limitInput(100, { json: { depth: 3 } }),
        after: [express.text({ type: () => true })],
        handler: (req, res) => void res.send(req.body),
      });
      await client.send(head('POST', '/', { 'Content-Type': type, ...CHUNKED }), chunk(Buffer.from(text)), end);
      if (end.length === 0) await client.send(chunk(''));
      expect(await client.answer()).toMatchObject({ status: 200, body: text });
    });

    it.each(['utf8', 'latin1', 'hex', 'base64'] as const)(
      'hands them on as %s to whom asked for that',
      async (encoding) => {
        const text = '["grün"]';
        const decode: RequestHandler = (req, _res, next) => next(void req.setEncoding(encoding));
        const { client } = await start({
          before: [waitFor(Buffer.byteLength(text)), decode],
          limit: limitInput(100, { json: { depth: 3 } }),
          handler: async (req, res) => res.send((await req.toArray()).join('')),
        });
        await client.send(
          head('POST', '/', { 'Content-Type': 'application/json', ...CHUNKED }),
          chunk(Buffer.from(text)),
        );
        await client.send(chunk(''));
        expect(await client.answer()).toMatchObject({ status: 200, body: Buffer.from(text).toString(encoding) });
      },
    );

    it('counts the bytes of the wire, and not those of the text that somebody asked for', async () => {
      const decode: RequestHandler = (req, _res, next) => next(void req.setEncoding('latin1'));
      const { client } = await start({ before: [waitFor(100), decode], handler: (_req, res) => void res.send('ok') });
      await client.send(head('POST', '/', CHUNKED), chunk(Buffer.alloc(100, 0xfc)));
      await client.send(chunk(''));
      expect(await client.answer()).toMatchObject({ status: 200 });
    });

    it.each(['application/json', 'text/plain'])('leaves the bytes to earlier listeners, once (%s)', async (type) => {
      let heard = '';
      const listen: RequestHandler = (req, _res, next) => {
        req.on('data', (data: Buffer) => {
          heard += data.toString();
        });
        next();
      };
      const { client } = await start({
        before: [waitFor(3), listen],
        limit: limitInput(100, { json: { depth: 3 } }),
        handler: (req, res) => void req.on('end', () => res.send('ok')),
      });
      await client.send(head('POST', '/', { 'Content-Type': type, ...CHUNKED }), chunk('[1]'), chunk(''));
      expect((await client.answer()).status).toBe(200);
      expect(heard).toBe('[1]');
    });

    it.each(['application/json', 'text/plain'])(
      'serves the next request though nobody read this one (%s)',
      async (type) => {
        const { client } = await start({
          before: [waitFor(1000)],
          limit: limitInput('1mb', { json: { depth: 3 } }),
          handler: (req, res) => void res.send(req.url),
        });
        const length = 900_000;
        await client.send(head('POST', '/1', { 'Content-Type': type, 'Content-Length': length }));
        const sent = client.send(' '.repeat(length));
        expect(await client.answer()).toMatchObject({ status: 200, body: '/1' });
        await sent;
        await client.send(head('GET', '/2'));
        expect(await client.answer()).toMatchObject({ status: 200, body: '/2' });
      },
    );
  });

  it('tells the channel express-unblock:reject of each refusal', async () => {
    const messages: unknown[] = [];
    const onReject = (message: unknown) => messages.push(message);
    channel('express-unblock:reject').subscribe(onReject);
    const { client, errors } = await start({ after: [raw] });
    await client.send(head('POST', '/', { 'Content-Length': 101 }), 'x'.repeat(101));
    await client.answer();
    const measured = await start({ before: [raw], limit: limitInput(3, { of: (req) => req.body }) });
    await measured.client.send(head('POST', '/', { 'Content-Length': 4 }), 'four');
    await measured.client.answer();
    channel('express-unblock:reject').unsubscribe(onReject);
    const told = (error: unknown) => ({ req: expect.anything(), res: expect.anything(), error });
    expect(messages).toEqual([told(errors[0]), told(measured.errors[0])]);
  });
});
