import type { NextFunction, Request, Response } from 'express';
import { timeout } from 'express-unblock';
import { Connection, cleanUp, expresses, serve } from './support/keep-alive';

afterEach(cleanUp);

const LIMIT = 60;

it.each(expresses)(
  '500 requests at once that finish as their deadline passes get one answer each, on %s',
  async (_, express) => {
    const app = express();
    let finished = 0;
    app.get('/:index', timeout(LIMIT), (req, res) => {
      // A millisecond before, with and after it.
      setTimeout(
        () => {
          finished++;
          res.json({ index: req.params.index, by: 'handler' });
        },
        LIMIT + (Number(req.params.index) % 3) - 1,
      );
    });
    app.use(async (error: { status: number }, req: Request, res: Response, _next: NextFunction) => {
      await null;
      res.status(error.status).json({ index: req.path.slice(1), by: 'error handler' });
    });
    const { port } = await serve(app);
    const connections = await Promise.all(Array.from({ length: 500 }, () => Connection.open(port)));

    // Ten times on the same connections: one byte too many would be taken for the next answer.
    for (let round = 1; round <= 10; round++) {
      const answers = await Promise.all(connections.map((connection, index) => connection.get(`/${index}`)));
      for (const [index, { status, body }] of answers.entries()) {
        expect([200, 504]).toContain(status);
        expect(JSON.parse(body)).toEqual({ index: String(index), by: status === 200 ? 'handler' : 'error handler' });
      }
      while (finished < round * connections.length) await new Promise(setImmediate);
    }
    expect(connections.map(({ unread }) => unread).join('')).toBe('');
  },
  60_000,
);
