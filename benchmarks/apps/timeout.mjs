import { AsyncLocalStorage } from 'node:async_hooks';
import connectTimeout from 'connect-timeout';
import express from 'express';
import timeoutHandler from 'express-timeout-handler';
import { timeout } from 'express-unblock';
import { serve } from '../lab/http-app.mjs';
import { handleInProcess } from '../lab/in-process.mjs';

const storage = new AsyncLocalStorage();

const middleware = {
  bare: [],
  ours: [timeout('5s')],
  'connect-timeout': [connectTimeout('5s')],
  'express-timeout-handler': [timeoutHandler.handler({ timeout: 5000 })],
  context: [(req, _res, next) => storage.run({ req }, next)],
  timer: [
    (_req, res, next) => {
      const timer = setTimeout(() => res.destroy(), 5000);
      res.on('close', () => clearTimeout(timer));
      next();
    },
  ],
}[process.argv[2]];

const app = express();
for (const one of middleware) app.use(one);
app.get('/', async (_req, res) => {
  await null; // As handlers do that ask a database: the async context is carried along.
  res.json({ hello: 'world' });
});
await serve(app, { inProcess: (amount) => handleInProcess(app, amount) });
