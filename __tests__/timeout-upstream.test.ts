import { setTimeout as sleep } from 'node:timers/promises';
import type { NextFunction, Request, Response } from 'express';
import { closePools, offload, timeout } from 'express-unblock';
import { Connection, cleanUp, expresses, serve } from './support/keep-alive';

afterEach(cleanUp);
afterAll(() => closePools());

const ENVOY = 'x-envoy-expected-rq-timeout-ms';
const secondsAgo = (seconds: number) => `t=${(Date.now() / 1000 - seconds).toFixed(3)}`;

describe.each(expresses)('timeout with upstream: true on %s', (_, express) => {
  /** An app whose routes are added by `route`, and that answers errors with what they carry. */
  async function open(route: (app: ReturnType<typeof express>) => void) {
    const app = express();
    route(app);
    app.use((error: Record<string, unknown>, _req: Request, res: Response, _next: NextFunction) => {
      const { code, status, timeout } = error;
      res.status(Number(status ?? 500)).json({ code, timeout });
    });
    return Connection.open((await serve(app)).port);
  }

  /** How long the handler has behind `timeout(time, { upstream: true })`. */
  async function timeGiven(time: number, headers: Record<string, string>): Promise<number> {
    const connection = await open((app) => {
      app.get('/', timeout(time, { upstream: true }), (req, res) => void res.json(req.deadline.remaining()));
    });
    const { status, body } = await connection.get('/', headers);
    expect(status).toBe(200);
    return JSON.parse(body);
  }

  it.each<[string, Record<string, string>, number]>([
    ['its own time without headers', {}, 60_000],
    ["Envoy's time", { [ENVOY]: '20000' }, 20_000],
    ["gRPC's time", { 'grpc-timeout': '15S' }, 15_000],
    ['the earlier of both', { [ENVOY]: '20000', 'grpc-timeout': '30S' }, 20_000],
    ['never more than its own time', { [ENVOY]: '90000', 'grpc-timeout': '2H' }, 60_000],
    ['its own time beside nonsense', { [ENVOY]: 'soon', 'grpc-timeout': '5 s', 'x-request-start': 'now' }, 60_000],
    ['its own time beside a start in the future', { 'x-request-start': secondsAgo(-30) }, 60_000],
    ['its own time beside an absurdly old start', { 'x-request-start': 't=1000000000' }, 60_000],
    ['what is left since the request came in', { 'x-request-start': secondsAgo(10) }, 50_000],
    ["what is left of the sender's time since then", { 'x-request-start': secondsAgo(10), [ENVOY]: '30000' }, 20_000],
  ])('gives %s', async (_name, headers, expected) => {
    const given = await timeGiven(60_000, headers);
    expect(given).toBeLessThanOrEqual(expected);
    expect(given).toBeGreaterThan(expected - 5_000);
  });

  it('answers 504 with the limit that counted when the time of the sender is over', async () => {
    const connection = await open((app) => app.get('/', timeout('10s', { upstream: true }), () => {}));
    const began = performance.now();
    const { status, body } = await connection.get('/', { 'grpc-timeout': '80m' });
    expect([status, JSON.parse(body)]).toEqual([504, { code: 'ERR_UNBLOCK_TIMEOUT', timeout: 80 }]);
    expect(performance.now() - began).toBeGreaterThanOrEqual(80);
  });

  it.each<[Record<string, string>, number]>([
    [{ [ENVOY]: '0' }, 0],
    [{ 'grpc-timeout': '0n' }, 0],
    [{ 'x-request-start': secondsAgo(15) }, 10_000],
    [{ 'x-request-start': secondsAgo(5), 'grpc-timeout': '4S' }, 4_000],
  ])('refuses a request whose time is over before its handlers run: %p', async (headers, limit) => {
    let begun = 0;
    const reasons: unknown[] = [];
    const connection = await open((app) => {
      app.use((req, res, next) => {
        res.on('close', () => reasons.push(req.deadline.signal.reason));
        next();
      });
      app.use(timeout('10s', { upstream: true }));
      app.use((_req, res) => {
        begun++;
        res.send('begun');
      });
    });
    const { status, body } = await connection.get('/', headers);
    expect([status, JSON.parse(body)]).toEqual([504, { code: 'ERR_UNBLOCK_TIMEOUT', timeout: limit }]);
    // The connection is as good as before.
    expect((await connection.get('/')).body).toBe('begun');
    expect(begun).toBe(1);
    expect(reasons[0]).toMatchObject({ code: 'ERR_UNBLOCK_TIMEOUT', timeout: limit });
  });

  it('refuses an upload whose time is over with 504, not for being slow', async () => {
    const connection = await open((app) => {
      app.use(timeout('10s', { upstream: true }), express.json());
      app.post('/', (_req, res) => void res.send('begun'));
    });
    connection.send('POST', '/', { 'Content-Length': 10, 'Content-Type': 'application/json', [ENVOY]: 0 }, '{"a');
    expect((await connection.answer()).status).toBe(504);
  });

  it("counts the sender's time from the first timeout() on, however late a second one runs", async () => {
    const connection = await open((app) => {
      app.use(timeout(5_000, { upstream: true }));
      app.use((_req, _res, next) => void setTimeout(next, 200));
      app.get('/', timeout(60_000, { upstream: true }), (req, res) => void res.json(req.deadline.remaining()));
    });
    const { body } = await connection.get('/', { [ENVOY]: '20000' });
    expect(JSON.parse(body)).toBeLessThanOrEqual(19_801);
    expect(JSON.parse(body)).toBeGreaterThan(15_000);
  });

  it('reads no header without the option', async () => {
    const connection = await open((app) => {
      app.get('/', timeout(60_000), (req, res) => void res.json(req.deadline.remaining()));
    });
    const { body } = await connection.get('/', {
      [ENVOY]: '0',
      'grpc-timeout': '1m',
      'x-request-start': secondsAgo(9),
    });
    expect(JSON.parse(body)).toBeGreaterThan(55_000);
  });

  it('hands what is left to the next service by deadline.headers(), and nothing without a limit', async () => {
    const connection = await open((app) => {
      app.get('/limited', timeout(20_000), (req, res) => void res.json(req.deadline.headers()));
      app.get('/skipped', timeout(20_000, { skip: () => true }), (req, res) => void res.json(req.deadline.headers()));
      app.get('/cleared', timeout(20_000), (req, res) => {
        req.deadline.clear();
        res.json(req.deadline.headers());
      });
    });
    const headers = JSON.parse((await connection.get('/limited')).body);
    const left = Number(headers[ENVOY]);
    expect(left).toBeGreaterThan(15_000);
    expect(left).toBeLessThanOrEqual(20_000);
    expect(headers).toEqual({ [ENVOY]: String(left), 'grpc-timeout': `${left}m` });
    expect((await connection.get('/skipped')).body).toBe('{}');
    expect((await connection.get('/cleared')).body).toBe('{}');
  });

  it('hands no time at all to the next service once the deadline has passed', async () => {
    let headers: unknown;
    const connection = await open((app) => {
      app.get('/', timeout(20), async (req) => {
        await sleep(60);
        headers = req.deadline.headers();
      });
      app.use(
        (error: Error, _req: Request, _res: Response, next: NextFunction) => void setTimeout(() => next(error), 100),
      );
    });
    expect((await connection.get('/')).status).toBe(504);
    expect(headers).toEqual({ [ENVOY]: '0', 'grpc-timeout': '0m' });
  });

  it('ends the calls of offloaded functions by the time of the sender', async () => {
    const endless = offload(function endless() {
      for (;;);
    });
    const connection = await open((app) => {
      app.use(timeout('20s', { upstream: true }));
      app.get(
        '/',
        endless.handler(() => []),
      );
    });
    const began = performance.now();
    const { status, body } = await connection.get('/', { [ENVOY]: '300' });
    expect([status, JSON.parse(body)]).toEqual([504, { code: 'ERR_UNBLOCK_TIMEOUT', timeout: 300 }]);
    expect(performance.now() - began).toBeLessThan(15_000);
  });
});

it('refuses an option that is neither true nor false where it is written', () => {
  const message = 'timeout: upstream must be true or false, got "yes"';
  expect(() => timeout(100, { upstream: 'yes' as never })).toThrow(
    expect.objectContaining({ code: 'ERR_UNBLOCK_BAD_OPTION', message }),
  );
});
