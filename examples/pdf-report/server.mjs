// Sends a report of thousands of lines as a PDF. The client that closes its tab stops the work.
import express from 'express';
import { limitInput, offload, problemDetails, timeout } from 'express-unblock';

const tasks = offload.module(new URL('./tasks.mjs', import.meta.url));

const app = express();
app.use(timeout('30s'), limitInput('2mb'), express.json({ limit: '2mb' }));

app.post('/reports', async (req, res) => {
  const { title, rows } = req.body;
  const onProgress = (share) => console.log(`${title}: ${Math.round(share * 100)}%`);
  const pdf = await tasks.report.with({ onProgress })(title, rows);
  res.type('application/pdf').attachment('report.pdf').send(Buffer.from(pdf));
});

app.use(problemDetails());

const server = app.listen(process.env.PORT ?? 3000, () => {
  console.log(`PDF report: http://localhost:${server.address().port}/`);
});

process.once('SIGTERM', () => server.close());
