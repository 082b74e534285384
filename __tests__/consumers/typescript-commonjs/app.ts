import type { AddressInfo } from 'node:net';
import path from 'node:path';
import express, { type Request } from 'express';
import { limitInput, offload, problemDetails, timeout } from 'express-unblock';

const repeat = offload((text: string, times: number) => text.repeat(times));
const endless = offload(() => {
  for (;;);
});
const tasks = offload.module<typeof import('./tasks.js')>(path.join(__dirname, 'tasks.js'));

const app = express();
app.get('/ping', (_req, res) => res.send('pong'));
app.get(
  '/repeat/:text',
  repeat.handler((req) => [req.params.text as string, 3]),
);
app.get(
  '/endless',
  timeout('500ms'),
  endless.handler(() => []),
);
app.post(
  '/count',
  limitInput('1kb'),
  express.json(),
  limitInput(100, { of: (req: Request) => req.body.text }),
  tasks.count.handler((req) => [req.body.text]),
);
app.use(problemDetails());

const server = app.listen(0, () => console.log((server.address() as AddressInfo).port));
process.once('SIGTERM', () => server.close());
