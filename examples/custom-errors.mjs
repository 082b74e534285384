// Everything that goes wrong reaches the app's own error handler, with a status and a code to tell it by. So the answers
// look like all others of this app.
import { randomUUID } from 'node:crypto';
import express from 'express';
import { createPool, limitInput, offload, timeout } from 'express-unblock';

const pool = createPool({ workers: 1, minWorkers: 1, maxQueue: 1 });
const search = offload((pattern, text) => text.match(new RegExp(pattern, 'g')) ?? [], { pool });

const app = express();

app.use((_req, res, next) => {
  res.locals.requestId = randomUUID();
  res.set('X-Request-Id', res.locals.requestId);
  next();
});

app.post(
  '/search',
  limitInput('10kb'),
  timeout('2s'),
  express.json(),
  search.handler((req) => [req.body.pattern, req.body.text]),
);

const MESSAGES = {
  ERR_UNBLOCK_TIMEOUT: () => 'That took too long. Try a simpler pattern.',
  ERR_UNBLOCK_UPLOAD_TIMEOUT: () => 'Your upload did not arrive in time.',
  ERR_UNBLOCK_TOO_LARGE: (error) => `Please send no more than ${error.limit} bytes.`,
  ERR_UNBLOCK_QUEUE_FULL: (error) => `We are busy. Try again in ${error.retryAfter} s.`,
};

app.use((error, _req, res, next) => {
  // Half an answer is out, or nobody is there to read one: Express's own handler closes the connection.
  if (res.headersSent || error.code === 'ERR_UNBLOCK_CLIENT_CLOSED') return next(error);
  const status = error.status ?? 500;
  const message = MESSAGES[error.code]?.(error) ?? (status < 500 ? error.message : 'Something went wrong.');
  const { requestId } = res.locals;
  res
    .status(status)
    .set(error.headers ?? {})
    .json({ error: { status, code: error.code, message, requestId } });
});

await pool.ready(); // So that the first request does not pay for the start of a worker.

const server = app.listen(process.env.PORT ?? 3000, () => {
  console.log(`Custom errors: http://localhost:${server.address().port}/`);
});

process.once('SIGTERM', () => server.close());
