import { fileURLToPath } from 'node:url';
import connectTimeout from 'connect-timeout';
import express from 'express';
import { createPool, offload, timeout } from 'express-unblock';
import Piscina from 'piscina';
import workerpool from 'workerpool';
import { serve } from '../lab/http-app.mjs';
import { work } from '../tasks/tasks.mjs';

/** One app with one CPU-heavy route, written in several ways, each as its documentation says. */

const [variant, workers, deadline] = process.argv.slice(2).map((arg, at) => (at === 0 ? arg : Number(arg)));
const file = (name) => fileURLToPath(new URL(`../tasks/${name}`, import.meta.url));
const app = express();

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
    app.get('/work', connectTimeout(deadline), (req, res) => {
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
    app.get('/work', connectTimeout(deadline), async (req, res, next) => {
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
      const timer = setTimeout(() => aborter.abort(), deadline);
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
      timeout(deadline),
      run.handler((req) => [Number(req.query.units)]),
    );
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
