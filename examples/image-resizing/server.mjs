// Makes thumbnails of uploaded images. An image that is huge, broken or made to do harm costs a worker at most, with a
// memory of its own, and never the server.
import express from 'express';
import { createPool, limitInput, offload, problemDetails, timeout } from 'express-unblock';

const pool = createPool({ workers: 2, minWorkers: 1, memory: '256mb' });
const tasks = offload.module(new URL('./tasks.mjs', import.meta.url), { pool });

const app = express();

app.post(
  '/thumbnails',
  limitInput('10mb'),
  timeout('10s'),
  express.raw({ type: 'image/*', limit: '10mb' }),
  async (req, res) => {
    const width = Math.min(Number(req.query.width ?? 200), 1000);
    res.type('image/webp').send(await tasks.thumbnail(req.body, width));
  },
);

app.use(problemDetails());

const server = app.listen(process.env.PORT ?? 3000, () => {
  console.log(`Image resizing: http://localhost:${server.address().port}/`);
});

process.once('SIGTERM', () => server.close());
