// Imports a CSV file, and tells how far it has come: one line of JSON for each report of progress, the result last.
import express from 'express';
import { limitInput, offload, problemDetails, timeout } from 'express-unblock';

const tasks = offload.module(new URL('./tasks.mjs', import.meta.url));

const app = express();

app.post(
  '/imports',
  limitInput('20mb'),
  timeout('60s'),
  express.text({ type: 'text/csv', limit: '20mb' }),
  async (req, res) => {
    const line = (data) => res.write(`${JSON.stringify(data)}\n`);
    res.type('application/x-ndjson');
    const { rows, totals } = await tasks.importCsv.with({ onProgress: line })(req.body);
    line({ rows, totals: Object.fromEntries(totals) });
    res.end();
  },
);

app.use(problemDetails());

const server = app.listen(process.env.PORT ?? 3000, () => {
  console.log(`CSV import: http://localhost:${server.address().port}/`);
});

process.once('SIGTERM', () => server.close());
