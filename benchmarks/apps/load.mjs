import { fileURLToPath } from 'node:url';
import connectTimeout from 'connect-timeout';
import express from 'express';
import { createPool, offload, timeout } from 'express-unblock';
import Piscina from 'piscina';
import workerpool from 'workerpool';
import { serve } from '../lab/http-app.mjs';
import { work } from '../tasks/tasks.mjs';

/**
 * One app with one CPU-heavy route, written in several ways, each as its documentation says. The client names the task,
 * the size of its input, the work that it takes, and the limit.
 */

const variant = process.argv[2];
const workers = Number(process.argv[3]);
const file = (name) => fileURLToPath(new URL(`../tasks/${name}`, import.meta.url));
const app = express();
const limitOf = (req) => Number(req.query.limit);
const connectTimeoutOf = (req, res, next) => connectTimeout(limitOf(req))(req, res, next);

app.get('/ping', (_req, res) => {
  res.send('pong');
});

const routes = {
  blocking() {
    app.get('/work', (req, res) => {
      res.json(work(Number(req.query.units)));
    });
  },

  'connect-timeout'() {
    app.get('/work', connectTimeoutOf, (req, res) => {
      const result = work(Number(req.query.units));
      if (!req.timedout) res.json(result);
    });
  },

  workerpool() {
    const pool = workerpool.pool(file('workerpool.mjs'), {
      workerType: 'process',
      minWorkers: workers,
      maxWorkers: workers,
    });
    app.get('/work', connectTimeoutOf, async (req, res, next) => {
      try {
        const result = await pool.exec('work', [Number(req.query.units)]);
        if (!req.timedout) res.json(result);
      } catch (error) {
        if (!req.timedout) next(error);
      }
    });
  },

  piscina() {
    const pool = new Piscina({ filename: file('tasks.mjs'), minThreads: workers, maxThreads: workers });
    app.get('/work', async (req, res, next) => {
      const aborter = new AbortController();
      const timer = setTimeout(() => aborter.abort(), limitOf(req));
      res.on('close', () => aborter.abort());
      try {
        res.json(await pool.run(Number(req.query.units), { name: 'work', signal: aborter.signal }));
      } catch (error) {
        if (!aborter.signal.aborted) next(error);
        else if (!res.destroyed) res.status(504).end();
      } finally {
        clearTimeout(timer);
      }
    });
  },

  ours() {
    const run = offload(work, { pool: createPool({ workers, minWorkers: workers }) });
    app.get(
      '/work',
      timeout(limitOf),
      run.handler((req) => [Number(req.query.units)]),
    );
  },

  'ours-with-size'() {
    const pool = createPool({ workers, minWorkers: workers });
    // Each of the tasks of a mix is a function of its own, whose time depends on the size in a way of its own.
    const handlerOf = () =>
      offload(work, { pool, size: (_units, size) => size }).handler(({ query }) => [
        Number(query.units),
        Number(query.size),
      ]);
    const tasks = new Map(['task', 'parse', 'diff', 'sort'].map((task) => [task, handlerOf()]));
    app.get('/work', timeout(limitOf), (req, res, next) => tasks.get(req.query.task)(req, res, next));
  },
};

routes[variant]();
// The late answer of a client that left, and a deadline that passed, are no news here.
app.use((error, _req, res, _next) => {
  res.status(error.status ?? 500).end();
});
await serve(app, {
  cpuPerUnit(units) {
    const before = process.cpuUsage();
    work(units);
    const { user, system } = process.cpuUsage(before);
    return (user + system) / 1000 / units;
  },
});
