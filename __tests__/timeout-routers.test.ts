import { AsyncLocalStorage } from 'node:async_hooks';
import type { Application, NextFunction, Request, RequestHandler, Response, Router } from 'express';
import { limitInput, timeout } from 'express-unblock';
import { Connection, cleanUp, expresses, gate, messagesOn, serve } from './support/keep-alive';

afterEach(cleanUp);

/** How a request fails: by the handler's own word, which is what the others are measured by. */
const failures: [string, RequestHandler, RequestHandler][] = [
  ['a deadline', timeout(40), () => {}],
  ['a body that grows too large', limitInput(10), (req) => void req.resume()],
];

const pass: RequestHandler = (_req, _res, next) => next();
const fail: RequestHandler = (_req, _res, next) =>
  void setTimeout(() => next(Object.assign(new Error('x'), { status: 500 })), 5);

describe.each(expresses)('error handlers on %s', (version, express) => {
  const views = new AsyncLocalStorage<string>();

  /** Nested routers and sub-apps, each with an error handler that notes what it sees and passes on. */
  function makeApp(guard: RequestHandler, handler: RequestHandler, seen: unknown[]): Application {
    const note = (name: string) => (error: Error, req: Request, res: Response, next: NextFunction) => {
      const app = [req.app.get('name'), res.app.get('name')];
      seen.push([name, req.url, req.baseUrl, { ...req.params }, ...app, views.getStore()]);
      next(error);
    };
    const app = express().set('name', 'app');
    app.use((_req, _res, next) => views.run('the app', next));
    app.use(guard);

    const [outer, inner] = [express.Router({ mergeParams: true }), express.Router({ mergeParams: true })];
    inner.post('/items/:item', pass, handler);
    inner.use(note('inner'));
    outer.use('/lists/:list', inner);
    outer.use('/elsewhere', note('elsewhere'));
    outer.use(note('outer'));
    app.use('/users/:user', outer);
    app.use('/users/7/lists', note('mounted'));

    const [sub, deep] = [express().set('name', 'sub'), express().set('name', 'deep')];
    deep.post('/here', handler);
    deep.use(note('deep'));
    sub.use('/deep', deep);
    sub.use(note('sub'));
    app.use('/sub', sub);

    app.use(note('last'));
    app.use((error: { status: number }, _req: Request, res: Response, _next: NextFunction) => {
      res.status(error.status).send('answered');
    });
    return app;
  }

  async function post(app: Application, path: string): Promise<number> {
    const connection = await Connection.open((await serve(app)).port);
    connection.send('POST', path, { 'Transfer-Encoding': 'chunked' });
    connection.socket.write(`b\r\n${'x'.repeat(11)}\r\n0\r\n\r\n`);
    return (await connection.answer()).status;
  }

  it.each(failures)('see after %s what next(error) of the handler would have shown', async (_, guard, handler) => {
    for (const path of ['/users/7/lists/8/items/9?a=b', '/sub/deep/here']) {
      const expected: unknown[] = [];
      const seen: unknown[] = [];
      expect(await post(makeApp(pass, fail, expected), path)).toBe(500);
      expect([408, 413, 504]).toContain(await post(makeApp(guard, handler, seen), path));
      expect(expected.length).toBeGreaterThan(2);
      // The handler's own timer has the app's context already.
      expect(seen).toEqual(expected);
    }
  });

  it('find the views of the sub-app that they belong to', async () => {
    const app = express().set('views', '/app');
    const sub = express().set('views', '/sub');
    sub.get('/', () => {});
    sub.use((error: Error, _req: Request, res: Response, next: NextFunction) => {
      res.set('X-Sub', String(res.app.get('views')));
      next(error);
    });
    app.use(timeout(30));
    app.use('/sub', sub);
    app.use((_error: Error, _req: Request, res: Response, _next: NextFunction) => void res.send(res.app.get('views')));
    const { headers, body } = await (await Connection.open((await serve(app)).port)).get('/sub');
    expect([headers['x-sub'], body]).toEqual(['/sub', '/app']);
  });

  it('are those of the route where the timeout stands in it', async () => {
    const app = express();
    app.get(
      '/',
      timeout(30),
      () => {},
      (_error: Error, _req: Request, res: Response, _next: NextFunction) => {
        res.send('of the route');
      },
    );
    expect((await (await Connection.open((await serve(app)).port)).get('/')).body).toBe('of the route');
  });

  it('are asked by a request that has left the router where its timeout stands', async () => {
    const app = express();
    const router = express.Router();
    router.use(timeout(30));
    router.use((_error: Error, _req: Request, res: Response, _next: NextFunction) => void res.send('left behind'));
    app.use('/a', router);
    app.get('/a/b', () => {});
    app.use((_error: Error, req: Request, res: Response, _next: NextFunction) => void res.send(req.url));
    expect((await (await Connection.open((await serve(app)).port)).get('/a/b')).body).toBe('/a/b');
  });

  describe('and a late next()', () => {
    const begun: string[] = [];
    const begin =
      (name: string): RequestHandler =>
      (_req, res) => {
        begun.push(name);
        res.send(name);
      };
    beforeEach(() => begun.splice(0));
    const [, other] = expresses.find(([, one]) => one !== express) as (typeof expresses)[0];
    const withRoute = <R extends Router>(router: R, handler: RequestHandler) =>
      router.get('/:id', handler, begin('the same route'));
    const withParam = <R extends Router>(router: R, handler: RequestHandler) =>
      router.param('id', handler as never).get('/:id', begin('behind a param'));
    const late =
      (act: (next: NextFunction) => void, acted: () => void): RequestHandler =>
      (req, _res, next) => {
        req.deadline.signal.addEventListener('abort', () => {
          setTimeout(() => {
            act(next);
            acted();
          }, 20);
        });
      };

    it.each<[string, (next: NextFunction) => void]>([
      ['next()', (next) => next()],
      ["next('route')", (next) => next('route')],
      ["next('router')", (next) => next('router')],
      ['next(error)', (next) => next(new Error('late'))],
    ])('%s begins no further handler, wherever it is called, and is told once', async (_, act) => {
      jest.spyOn(process, 'emitWarning').mockImplementation();
      const places: [string, (app: Application, handler: RequestHandler) => unknown][] = [
        ['a route', (app, handler) => app.get('/:id', handler, begin('the same route'))],
        ['another route', (app, handler) => app.get('/:id', handler).get('/:id', begin('another route'))],
        ['a middleware', (app, handler) => app.use('/', handler).get('/:id', begin('behind a middleware'))],
        ['a router', (app, handler) => app.use(withRoute(express.Router(), handler)).get('/:id', begin('behind it'))],
        ['a mounted app', (app, handler) => app.use(withRoute(express(), handler)).get('/:id', begin('behind it'))],
        ["another Express's router", (app, handler) => app.use(withRoute(other.Router(), handler))],
        ['app.param', (app, handler) => withParam(app, handler)],
        ["a router's param", (app, handler) => app.use(withParam(express.Router(), handler))],
        ["a mounted app's param", (app, handler) => app.use(withParam(express(), handler))],
        ["the param of another Express's router", (app, handler) => app.use(withParam(other.Router(), handler))],
      ];
      for (const [place, mount] of places) {
        const reports = messagesOn('express-unblock:late');
        const acted = gate();
        const app = express();
        app.use(timeout(30));
        mount(app, late(act, acted.open));
        const handled: string[] = [];
        app.use((error: { code: string }, _req: Request, _res: Response, next: NextFunction) => {
          handled.push(error.code);
          // Asynchronous, so that the late next() comes in between.
          setTimeout(() => next(error), 60);
        });
        app.use((error: { code: string }, _req: Request, res: Response, _next: NextFunction) => {
          handled.push(error.code);
          res.status(504).end();
        });
        const connection = await Connection.open((await serve(app)).port);
        const { status } = await connection.get('/5');
        await acted.opened;
        const twice = ['ERR_UNBLOCK_TIMEOUT', 'ERR_UNBLOCK_TIMEOUT'];
        expect([place, status, begun, handled]).toEqual([place, 504, [], twice]);
        expect(reports.all.map(({ method }) => method)).toEqual(['next']);
      }
      jest.restoreAllMocks();
    });

    it('an async app.param that rejects late does not use up the error handlers', async () => {
      const reports = messagesOn('express-unblock:late');
      const [asked, rejected] = [gate(), gate()];
      const app = express();
      app.use(timeout(30));
      const lookUp = async () => {
        await asked.opened;
        setImmediate(rejected.open);
        throw new Error('late');
      };
      // Express 4 leaves it to the app to hand on what a promise rejects with.
      withParam(app, (_req, _res, next) => (version === 'Express 5' ? lookUp() : lookUp().catch(next)));
      app.use(async (error: Error, _req: Request, _res: Response, next: NextFunction) => {
        asked.open();
        await rejected.opened;
        next(error);
      });
      app.use((error: { code: string }, _req: Request, res: Response, _next: NextFunction) => {
        res.status(504).send(error.code);
      });
      const connection = await Connection.open((await serve(app)).port);
      expect((await connection.get('/5')).body).toBe('ERR_UNBLOCK_TIMEOUT');
      expect((await reports.first).error).toMatchObject({ message: 'late' });
      expect([begun, reports.all.length]).toEqual([[], 1]);
    });

    it.each<[string, RequestHandler, number]>([
      ['goes on', (_req, _res, next) => next(), 200],
      ['fails', (_req, _res, next) => next(new Error('unknown')), 500],
      ['leaves the route', (_req, _res, next) => next('route'), 404],
      [
        'throws',
        () => {
          throw new Error('unknown');
        },
        500,
      ],
    ])('changes nothing for an app.param that %s in time', async (_, param, status) => {
      const app = express().set('env', 'test');
      app.use(timeout(10_000));
      withParam(app, param);
      const connection = await Connection.open((await serve(app)).port);
      for (let i = 0; i < 2; i++) expect((await connection.get('/5')).status).toBe(status);
      expect(begun).toEqual(status === 200 ? ['behind a param', 'behind a param'] : []);
    });
  });
});
