import connectTimeout from 'connect-timeout';
import express from 'express';
import timeoutHandler from 'express-timeout-handler';
import { timeout } from 'express-unblock';
import { serve } from '../lab/http-app.mjs';

const middleware = {
  bare: [],
  ours: [timeout('5s')],
  'connect-timeout': [connectTimeout('5s')],
  'express-timeout-handler': [timeoutHandler.handler({ timeout: 5000 })],
}[process.argv[2]];

const app = express();
for (const one of middleware) app.use(one);
app.get('/', (_req, res) => {
  res.json({ hello: 'world' });
});
await serve(app);
