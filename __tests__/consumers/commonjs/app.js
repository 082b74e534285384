const path = require('node:path');
const express = require('express');
const { limitInput, offload, problemDetails, timeout } = require('express-unblock');

const repeat = offload((text, times) => text.repeat(times));
const endless = offload(() => {
  for (;;);
});
const tasks = offload.module(path.join(__dirname, 'tasks.js'));

const app = express();
app.get('/ping', (_req, res) => res.send('pong'));
app.get(
  '/repeat/:text',
  repeat.handler((req) => [req.params.text, 3]),
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
  limitInput(100, { of: (req) => req.body.text }),
  tasks.count.handler((req) => [req.body.text]),
);
app.use(problemDetails());

const server = app.listen(0, () => console.log(server.address().port));
process.once('SIGTERM', () => server.close());
