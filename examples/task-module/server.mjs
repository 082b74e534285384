// Real code has imports, private functions and state: it lives in a module of its own, ./tasks.mjs, and each function
// which that exports becomes an offloaded one.
import express from 'express';
import { limitInput, offload, problemDetails, timeout } from 'express-unblock';

const tasks = offload.module(new URL('./tasks.mjs', import.meta.url));

const app = express();
app.use(limitInput('1mb'), timeout('10s'), express.text({ limit: '1mb' }));

app.post(
  '/summaries',
  tasks.summarize.handler((req) => [req.body, 3]),
);

app.post('/words', async (req, res) => {
  const frequency = await tasks.wordFrequency(req.body);
  res.json(Object.fromEntries(frequency));
});

// One line of JSON for each report of progress, then one with the result.
app.post('/summaries/live', async (req, res) => {
  const line = (data) => res.write(`${JSON.stringify(data)}\n`);
  res.type('application/x-ndjson');
  const summary = await tasks.summarize.with({ onProgress: line })(req.body, 3);
  line({ summary });
  res.end();
});

app.use(problemDetails());

const server = app.listen(process.env.PORT ?? 3000, () => {
  console.log(`Task module: http://localhost:${server.address().port}/`);
});

process.once('SIGTERM', () => server.close());
