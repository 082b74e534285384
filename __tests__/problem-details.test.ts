import { STATUS_CODES } from 'node:http';
import type { Response } from 'express';
import { type ProblemDetailsOptions, problemDetails } from 'express-unblock';
import createError from 'http-errors';
import { Connection, cleanUp, expresses, gate, serve } from './support/keep-alive';

afterEach(cleanUp);

describe('problemDetails', () => {
  it.each([
    [{ exposed: true }, 'problemDetails: unknown option "exposed", expected expose'],
    [{ expose: 'yes' }, 'problemDetails: expose must be true or false, got "yes"'],
    [true, 'problemDetails: options must be an object, got true'],
  ])('refuses the options %p where they are written', (options, message) => {
    const refusal = { name: 'TypeError', code: 'ERR_UNBLOCK_BAD_OPTION', message };
    expect(() => problemDetails(options as ProblemDetailsOptions)).toThrow(expect.objectContaining(refusal));
  });
});

describe.each(expresses)('problemDetails on %s', (_, express) => {
  async function answerTo(error: unknown, options?: ProblemDetailsOptions, prepare = (_res: Response) => {}) {
    const app = express();
    app.get('/', (_req, res, next) => {
      prepare(res);
      next(error);
    });
    app.get('/next', (_req, res) => void res.send('next'));
    app.use(problemDetails(options));
    const connection = await Connection.open((await serve(app)).port);
    const { status, headers, body } = await connection.get('/');
    expect((await connection.get('/next')).body).toBe('next');
    expect(headers['content-type']).toBe('application/problem+json; charset=utf-8');
    expect(Number(headers['content-length'])).toBe(Buffer.byteLength(body));
    expect(JSON.parse(body).status).toBe(status);
    return { headers, problem: JSON.parse(body) };
  }

  it('says what was wrong with a request, and its public numbers', async () => {
    const error = createError(413, 'Zu groß', { code: 'ERR_UNBLOCK_TOO_LARGE', limit: 10, received: 11, secret: 1 });
    expect((await answerTo(error)).problem).toEqual({
      type: 'about:blank',
      title: STATUS_CODES[413],
      status: 413,
      detail: 'Zu groß',
      code: 'ERR_UNBLOCK_TOO_LARGE',
      limit: 10,
      received: 11,
    });
  });

  it.each([10n, { password: 'secret' }, 'many', Number.NaN])('takes %p for no public number', async (limit) => {
    expect((await answerTo(createError(422, 'Too many', { limit }))).problem).not.toHaveProperty('limit');
  });

  it('keeps to itself what another response said of its body and connection', async () => {
    const given = {
      'transfer-encoding': 'chunked',
      'Content-Encoding': 'gzip',
      'Set-Cookie': 'a=b',
      'x-none': undefined,
    };
    const { headers } = await answerTo(createError(502, { headers: { ...given, 'Retry-After': 7 } }));
    expect(headers).toMatchObject({ 'retry-after': '7' });
    for (const name of Object.keys(given)) expect(headers).not.toHaveProperty(name.toLowerCase());
  });

  it('keeps the detail and the code of a failure of ours to itself', async () => {
    const error = Object.assign(new Error('connect ECONNREFUSED 10.0.0.1'), { code: 'ECONNREFUSED' });
    expect((await answerTo(error)).problem).toEqual({
      type: 'about:blank',
      title: 'Internal Server Error',
      status: 500,
    });
  });

  it('shows them with expose', async () => {
    const error = Object.assign(new Error('connect ECONNREFUSED 10.0.0.1'), { code: 'ECONNREFUSED' });
    expect((await answerTo(error, { expose: true })).problem).toMatchObject({
      status: 500,
      detail: 'connect ECONNREFUSED 10.0.0.1',
      code: 'ECONNREFUSED',
    });
  });

  it('minds what the error says of its own exposure', async () => {
    const shown = await answerTo(createError(503, 'Back at noon', { expose: true }));
    expect(shown.problem.detail).toBe('Back at noon');
    const hidden = await answerTo(createError(400, 'Row 7 of users', { expose: false }));
    expect(hidden.problem).not.toHaveProperty('detail');
  });

  it.each([
    ['no status', new Error('x')],
    ['a status that is no error', Object.assign(new Error('x'), { status: 200 })],
    ['a status that is no number', Object.assign(new Error('x'), { status: '404' })],
    ['a status out of range', Object.assign(new Error('x'), { status: 999 })],
    ['no error at all', 'a string'],
    ['a number', 42],
  ])('takes %s for a 500', async (_, error) => {
    expect((await answerTo(error)).problem).toMatchObject({ status: 500, title: 'Internal Server Error' });
  });

  it('names a status that has no name', async () => {
    expect((await answerTo(createError(499 + 100, 'x'))).problem).toMatchObject({ status: 599, title: 'Error' });
  });

  it('sends the headers that the error carries', async () => {
    const error = createError(503, 'Full', { headers: { 'Retry-After': '7' } });
    expect((await answerTo(error)).headers['retry-after']).toBe('7');
  });

  it.each([
    ['of errors that are none of HTTP', Object.assign(new Error('refused'), { headers: { 'X-Internal-Host': 'db' } })],
    ['that are no headers', Object.assign(createError(400, 'x'), { headers: 'text' })],
  ])('sends no headers %s', async (_, error) => {
    const { headers } = await answerTo(error);
    expect(Object.keys(headers).sort()).toEqual(Object.keys((await answerTo(createError(400, 'x'))).headers).sort());
  });

  it('is not read as what the handler was about to send', async () => {
    const { headers } = await answerTo(createError(400, 'x'), {}, (res) => {
      res.statusMessage = 'Fine';
      res.set({ 'Content-Encoding': 'gzip', 'Content-Language': 'de', 'Content-Range': 'bytes 0-1/2', 'X-Kept': '1' });
    });
    expect(headers).toMatchObject({ 'x-kept': '1' });
    expect(Object.keys(headers).filter((name) => /^content-(encoding|language|range)$/.test(name))).toEqual([]);
  });

  it('writes nothing to a client that has left', async () => {
    const app = express();
    app.get('/', (_req, _res, next) => next(createError(499, 'Client closed the request')));
    app.use(problemDetails());
    const connection = await Connection.open((await serve(app)).port);
    connection.send('GET', '/');
    await connection.closed;
    expect([connection.unread, connection.socket.bytesRead]).toEqual(['', 0]);
  });

  it('leaves an answer that has begun to the next error handler', async () => {
    const handed = gate<unknown>();
    const error = createError(500, 'x');
    const app = express();
    app.get('/', (_req, res, next) => {
      res.write('first');
      next(error);
    });
    app.use(problemDetails());
    app.use((passed: unknown, _req: unknown, res: Response, _next: unknown) => {
      handed.open(passed);
      res.destroy();
    });
    const connection = await Connection.open((await serve(app)).port);
    connection.send('GET', '/');
    expect(await handed.opened).toBe(error);
    await connection.closed;
  });
});
