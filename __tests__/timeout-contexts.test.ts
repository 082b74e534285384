import { spawn } from 'node:child_process';
import { once } from 'node:events';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { NextFunction, Request, Response } from 'express';
import { createPool, currentDeadline, offload, timeout } from 'express-unblock';
import { Connection, cleanUp, expresses, gate, messagesOn, serve } from './support/keep-alive';

afterEach(cleanUp);

jest.setTimeout(30_000);

/** What a script of its own process prints: there, errors end what they end. */
async function run(script: string, express: string): Promise<{ code: number; lines: string[] }> {
  const fixture = path.join(__dirname, 'support', 'contexts.cjs');
  const child = spawn(process.execPath, ['--expose-gc', fixture, script, express], {
    stdio: ['ignore', 'pipe', 'ignore'],
  });
  let output = '';
  child.stdout.on('data', (text) => {
    output += text;
  });
  const [code] = await once(child, 'close');
  return { code, lines: output.trim().split('\n') };
}

// Each waits for what is in the past after 5 s: all do so at the same time.
const scripts = ['outlives', 'collects', 'patches'].flatMap((script) =>
  ['express', 'express4'].map((express) => [`${script} ${express}`, run(script, express)] as const),
);
const outcomes = new Map(scripts);

describe.each([
  ['Express 5', 'express'],
  ['Express 4', 'express4'],
])('what a request leaves behind, on %s', (_, express) => {
  it('fails as the process has it, from 5 s after the response, and is told once each until then', async () => {
    expect((await outcomes.get(`outlives ${express}`))?.lines).toEqual([
      'early: 1 warning, 0 heard',
      'past: 1 warning, 1 heard',
      'deadline past: undefined',
    ]);
  });

  it('keeps neither req nor res, whether the request was answered, ran out of time or was left', async () => {
    expect(await outcomes.get(`collects ${express}`)).toEqual({ code: 0, lines: ['6 of 6 collected'] });
  });

  it('has late errors forgiven though others replace process.emit and put it back, before and after', async () => {
    expect(await outcomes.get(`patches ${express}`)).toEqual({
      code: 0,
      lines: ['504 late', '504 late', '504 late', 'wrapper told of 0 late errors', 'alive'],
    });
  });
});

describe.each(expresses)('contexts on %s', (_, express) => {
  it('change how process.emit is read once, however many deadlines pass', async () => {
    const app = express();
    app.get('/', timeout(1), () => {});
    const connection = await Connection.open((await serve(app)).port);
    const descriptors = new Set<unknown>();
    for (let i = 0; i < 3; i++) {
      expect((await connection.get('/')).status).toBe(504);
      descriptors.add(Object.getOwnPropertyDescriptor(process, 'emit')?.get);
    }
    expect([...descriptors]).toEqual([expect.any(Function)]);
  });

  it('let a queue that a request began go on for others, when its client has left', async () => {
    await using pool = createPool({ workers: 1 });
    const double = offload((n: number) => n * 2, { pool });
    type Job = { n: number; done: (result: number) => void; failed: (error: Error) => void };
    const jobs: Job[] = [];
    let timer: NodeJS.Timeout | undefined;
    const enqueue = (n: number) =>
      new Promise<number>((done, failed) => {
        jobs.push({ n, done, failed });
        timer ??= setInterval(() => {
          for (const job of jobs.splice(0)) double(job.n).then(job.done, job.failed);
        }, 120);
      });
    const left = gate();
    const app = express();
    app.get('/:n', timeout(5_000), (req, res, next) => {
      res.on('close', () => left.open());
      enqueue(Number(req.params.n)).then((result) => res.send(String(result)), next);
    });
    const { port } = await serve(app);
    const leaving = await Connection.open(port);
    leaving.send('GET', '/1');
    await sleep(30);
    leaving.socket.destroy();
    await left.opened;
    while (jobs.length > 0) await sleep(10);
    await sleep(120);
    const connection = await Connection.open(port);
    for (const n of [2, 3]) expect((await connection.get(`/${n}`)).body).toBe(String(2 * n));
    clearInterval(timer);
  });

  it('refuse what the handler of a request that is over goes on to call', async () => {
    await using pool = createPool({ workers: 1 });
    const one = offload(() => 1, { pool });
    const outcomes = gate<unknown>();
    const app = express();
    app.get('/', timeout(30), async (req) => {
      await new Promise((resolve) => req.deadline.signal.addEventListener('abort', resolve));
      const results = await Promise.allSettled([one(), one(), one.with({ detached: true })()]);
      outcomes.open(results.map((result) => (result.status === 'fulfilled' ? result.value : result.reason.code)));
    });
    app.use((_error: Error, _req: Request, res: Response, _next: NextFunction) => void res.status(504).end());
    const connection = await Connection.open((await serve(app)).port);
    expect((await connection.get('/')).status).toBe(504);
    expect(await outcomes.opened).toEqual(['ERR_UNBLOCK_TIMEOUT', 'ERR_UNBLOCK_TIMEOUT', 1]);
  });

  it('run a detached call to its end, though the deadline of its request passes', async () => {
    await using pool = createPool({ workers: 1 });
    const slow = offload((ms: number) => new Promise((resolve) => setTimeout(resolve, ms, 'done')), { pool });
    await pool.ready();
    const result = gate<unknown>();
    const app = express();
    app.get('/', timeout(50), () => slow.with({ detached: true })(200).then(result.open, result.open));
    app.use((_error: Error, _req: Request, res: Response, _next: NextFunction) => void res.status(504).end());
    const connection = await Connection.open((await serve(app)).port);
    expect((await connection.get('/')).status).toBe(504);
    expect(await result.opened).toBe('done');
    expect(() => slow.with({ detached: 'yes' as never })).toThrow('with: detached must be true or false, got "yes"');
  });

  it('are those of the request in what reads its body', async () => {
    const app = express();
    app.use(timeout(5_000));
    app.post('/', (req, res) => {
      const seen: boolean[] = [];
      const note = () => seen.push(currentDeadline() === req.deadline);
      req.on('data', note);
      req.on('end', () => {
        note();
        res.json(seen);
      });
    });
    const connection = await Connection.open((await serve(app)).port);
    connection.send('POST', '/', { 'Content-Length': 6 });
    await sleep(20);
    connection.socket.write('abc');
    await sleep(20);
    connection.socket.write('def');
    expect((await connection.answer()).body).toBe('[true,true,true]');
  });

  it("tell each error of a late handler's once, beside what it did", async () => {
    jest.spyOn(process, 'emitWarning').mockImplementation();
    const reports = messagesOn('express-unblock:late');
    const acted = gate();
    const app = express();
    app.get('/', timeout(30), (req, res, next) => {
      req.deadline.signal.addEventListener('abort', () => {
        setTimeout(() => {
          res.set('X-Late', 'yes');
          res.send('late');
          const error = new Error('a bug');
          next(error);
          next(error);
          next(new Error('another'));
          next(req.deadline.signal.reason);
          acted.open();
        }, 10);
      });
    });
    app.use((_error: Error, _req: Request, res: Response, _next: NextFunction) => void res.status(504).end());
    const connection = await Connection.open((await serve(app)).port);
    expect((await connection.get('/')).status).toBe(504);
    await acted.opened;
    expect(reports.all.map(({ method, error }) => [method, error?.message])).toEqual([
      ['setHeader', undefined],
      ['next', 'a bug'],
      ['next', 'another'],
    ]);
    expect(process.emitWarning).not.toHaveBeenCalled();
    jest.restoreAllMocks();
  });

  it.each<[string, (reason: Error) => unknown, string[]]>([
    ['the reason of its signal', (reason) => reason, []],
    ['what has that as its cause', (reason) => new Error('query cancelled', { cause: reason }), []],
    ['an error of an aborted operation', () => Object.assign(new Error('The operation'), { code: 'ABORT_ERR' }), []],
    ['that of a stream', () => Object.assign(new Error('Cannot'), { code: 'ERR_STREAM_PREMATURE_CLOSE' }), []],
    ['that of a body parser', () => new Error('request aborted'), []],
    ['an error of its own', () => new Error('a bug'), ['a bug']],
    ['null', () => null, ['null']],
    ['a text', () => 'a bug', ['a bug']],
  ])('warn of what a late handler fails with, unless it is the abort itself: %s', async (_, make, warned) => {
    const emitWarning = jest.spyOn(process, 'emitWarning').mockImplementation();
    const acted = gate();
    const app = express();
    app.get('/', timeout(20), (req, _res, next) => {
      req.deadline.signal.addEventListener('abort', () => {
        setImmediate(() => {
          next(make(req.deadline.signal.reason));
          acted.open();
        });
      });
    });
    app.use((_error: Error, _req: Request, res: Response, _next: NextFunction) => void res.status(504).end());
    const connection = await Connection.open((await serve(app)).port);
    expect((await connection.get('/')).status).toBe(504);
    await acted.opened;
    const messages = emitWarning.mock.calls.map(([message]) => String(message));
    jest.restoreAllMocks();
    expect(messages).toEqual(warned);
  });
});
