import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { gunzipSync } from 'node:zlib';
import compression from 'compression';
import cors from 'cors';
import type { NextFunction, Request, Response } from 'express';
import session from 'express-session';
import { currentDeadline, timeout } from 'express-unblock';
import helmet from 'helmet';
import morgan from 'morgan';
import multer from 'multer';
import { Connection, cleanUp, expresses, gate, serve } from './support/keep-alive';

afterEach(cleanUp);

const hang = () => {};

/** Multipart, with one field and one file. */
const FORM = [
  '--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n1',
  '--x\r\nContent-Disposition: form-data; name="f"; filename="f.txt"\r\nContent-Type: text/plain\r\n\r\nfile',
  '--x--\r\n',
].join('\r\n');
const FORM_TYPE = 'multipart/form-data; boundary=x';

describe.each(expresses)('timeout on %s, with what apps really use', (_, express) => {
  /** A session store that takes its time, as one on the network does. */
  class SlowStore extends session.MemoryStore {
    set(...args: unknown[]): void {
      setTimeout(() => super.set(...args), 500);
    }
  }

  describe.each(['before', 'after'])('that is mounted %s them', (where) => {
    /** Its routes work, hang, or answer too late. */
    async function open(time: number) {
      const app = express();
      const logged: string[] = [];
      if (where === 'before') app.use(timeout(time));
      app.use(morgan(':method :url :status', { stream: { write: (line: string) => void logged.push(line.trim()) } }));
      app.use(helmet());
      app.use(cors({ origin: 'https://app.example' }));
      app.use(compression({ threshold: 0 }));
      app.use(session({ secret: 's', resave: true, saveUninitialized: true, store: new SlowStore() }));
      if (where === 'after') app.use(timeout(time));
      app.use('/files', express.static(__dirname));
      const upload = multer({ storage: multer.memoryStorage() });
      app.post('/json', express.json(), (req, res) => void res.json([req.body, currentDeadline() === req.deadline]));
      app.post('/form', upload.single('f'), (req, res) => {
        const { body, file } = req as Request & { file?: { buffer: Buffer } };
        res.json([body.a, String(file?.buffer), currentDeadline() === req.deadline]);
      });
      app.get('/text', (_req, res) => void res.send('text '.repeat(1_000)));
      const late = gate();
      app.get('/late', async (_req, res) => {
        res.set({ ETag: '"x"', 'Content-Type': 'image/png' });
        await late.opened;
        res.send('late '.repeat(1_000));
      });
      app.get('/hang', hang);
      app.use((error: { status: number; code: string }, _req: Request, res: Response, _next: NextFunction) => {
        res.status(error.status).json({ code: error.code, padding: 'error '.repeat(1_000) });
      });
      return { connection: await Connection.open((await serve(app)).port), logged, late };
    }

    it('works as they do', async () => {
      const { connection } = await open(20_000);
      expect((await connection.get('/text')).body).toBe('text '.repeat(1_000));
      expect((await connection.get('/files/tsconfig.json')).body).toContain('compilerOptions');
      connection.send('POST', '/json', { 'Content-Type': 'application/json', 'Content-Length': 7 }, '{"a":1}');
      expect((await connection.answer()).body).toBe('[{"a":1},true]');
      connection.send('POST', '/form', { 'Content-Type': FORM_TYPE, 'Content-Length': FORM.length }, FORM);
      expect((await connection.answer()).body).toBe('["1","file",true]');
    });

    it('answers 504 with their headers, and without those of the unsent body', async () => {
      const { connection, logged, late } = await open(250);
      const { status, headers, body } = await connection.get('/late');
      expect([status, JSON.parse(body).code]).toEqual([504, 'ERR_UNBLOCK_TIMEOUT']);
      expect(headers).toMatchObject({
        'access-control-allow-origin': 'https://app.example',
        'x-content-type-options': 'nosniff',
        'content-security-policy': expect.stringContaining('default-src'),
        'content-type': 'application/json; charset=utf-8',
        'set-cookie': expect.stringContaining('connect.sid='),
      });
      expect(headers.etag).not.toBe('"x"');
      late.open();
      expect((await connection.get('/text')).body).toBe('text '.repeat(1_000));
      expect(logged).toEqual(['GET /late 504', 'GET /text 200']);
    });

    it('answers 504 with a compressed body that can be read', async () => {
      const { connection } = await open(250);
      const { status, headers, bytes } = await connection.get('/hang', { 'Accept-Encoding': 'gzip' });
      expect([status, headers['content-encoding']]).toEqual([504, 'gzip']);
      expect(JSON.parse(String(gunzipSync(bytes)))).toMatchObject({ code: 'ERR_UNBLOCK_TIMEOUT' });
      expect((await connection.get('/text')).status).toBe(200);
    });
  });

  it('lets an answer through whose session takes past the deadline to be saved', async () => {
    const app = express();
    app.get('/next', (_req, res) => void res.send('next'));
    app.use(timeout(250));
    app.use(session({ secret: 's', resave: true, saveUninitialized: true, store: new SlowStore() }));
    app.get('/', (_req, res) => void res.json('done'));
    const connection = await Connection.open((await serve(app)).port);
    expect((await connection.get('/')).body).toBe('"done"');
    expect((await connection.get('/next')).body).toBe('next');
  });

  it('tells each of hundreds of requests in flight its own deadline, across parsers and callbacks', async () => {
    const app = express();
    app.use(timeout(20_000));
    const upload = multer({ storage: multer.memoryStorage() });
    const check = (req: Request, res: Response) => {
      const own = () => currentDeadline() === req.deadline && req.deadline !== undefined;
      const parsed = own();
      setImmediate(async () => {
        await sleep(Math.random() * 20);
        const later = own();
        process.nextTick(() => res.json([parsed, later, own()]));
      });
    };
    app.post('/json', express.json(), check);
    app.post('/text', express.text(), check);
    app.post('/form', upload.any(), check);
    app.post('/events', (req, res) => void req.on('end', () => check(req, res)).resume());
    const { port } = await serve(app);

    const bodies = {
      '/json': ['application/json', '{"a":1}'],
      '/text': ['text/plain', 'text'],
      '/form': [FORM_TYPE, FORM],
      '/events': ['text/plain', 'text'],
    } as const;
    const paths = Object.keys(bodies) as (keyof typeof bodies)[];
    const answers = await Promise.all(
      Array.from({ length: 200 }, async (_, index) => {
        const path = paths[index % paths.length] as keyof typeof bodies;
        const [type, body] = bodies[path];
        const connection = await Connection.open(port);
        // In two parts, so that the end comes in a later turn than the head.
        const half = Math.ceil(body.length / 2);
        connection.send('POST', path, { 'Content-Type': type, 'Content-Length': body.length }, body.slice(0, half));
        await sleep(Math.random() * 20);
        connection.socket.write(body.slice(half));
        return `${path} ${(await connection.answer()).body}`;
      }),
    );
    expect(new Set(answers)).toEqual(new Set(paths.map((path) => `${path} [true,true,true]`)));
  });

  it('answers 408 in the middle of an upload to multer, and keeps the answer whole', async () => {
    const app = express();
    app.post('/', timeout(50), multer({ storage: multer.memoryStorage() }).any(), (_req, res) => void res.json('done'));
    const connection = await Connection.open((await serve(app)).port);
    connection.send('POST', '/', { 'Content-Type': FORM_TYPE, 'Content-Length': FORM.length }, FORM.slice(0, 90));
    expect((await connection.answer()).status).toBe(408);
    connection.socket.write(FORM.slice(90));
    await once(connection.socket, 'close');
    expect(connection.unread).toBe('');
  });
});
