// The same in TypeScript: arguments, results, errors and the request's deadline are typed.
import type { AddressInfo } from 'node:net';
import express, { type ErrorRequestHandler } from 'express';
import { limitInput, offload, timeout, type UnblockError } from 'express-unblock';

const tasks = offload.module<typeof import('./tasks.mjs')>(new URL('./tasks.mjs', import.meta.url));

const app = express();
app.use(limitInput('1mb'), timeout('10s'), express.text({ limit: '1mb' }));

app.post('/statistics', async (req, res) => {
  const { words, longest } = await tasks.statistics(String(req.body));
  res.json({ words, longest, millisecondsLeft: req.deadline.remaining() });
});

const answerErrors: ErrorRequestHandler = (error: UnblockError, _req, res, next) => {
  if (res.headersSent) return next(error);
  switch (error.code) {
    case 'ERR_UNBLOCK_TIMEOUT':
      return res.status(504).json({ message: `It took longer than ${error.timeout} ms` });
    case 'ERR_UNBLOCK_TOO_LARGE':
      return res.status(413).json({ message: `At most ${error.limit} bytes, please` });
    default:
      return next(error);
  }
};
app.use(answerErrors);

const server = app.listen(process.env.PORT ?? 3000, () => {
  console.log(`TypeScript: http://localhost:${(server.address() as AddressInfo).port}/`);
});

process.once('SIGTERM', () => server.close());
