// examples/blocked.mjs with its fault mended: the computation runs in a worker process, has a deadline, and is not
// begun for input that is too big. `diff examples/blocked.mjs examples/unblocked.mjs` shows what it takes.
import express from 'express';
import { limitInput, offload, timeout } from 'express-unblock';

function editDistance(a, b) {
  let above = Array.from({ length: b.length + 1 }, (_, column) => column);
  for (let row = 1; row <= a.length; row++) {
    const current = [row];
    for (let column = 1; column <= b.length; column++) {
      const swap = above[column - 1] + (a[row - 1] === b[column - 1] ? 0 : 1);
      current.push(Math.min(swap, above[column] + 1, current[column - 1] + 1));
    }
    above = current;
  }
  return above[b.length];
}

const offloadedDistance = offload(editDistance);

const app = express();

app.get('/ping', (_req, res) => res.send('pong'));

app.post('/distance', limitInput('50kb'), timeout('20s'), express.json(), async (req, res) => {
  res.json({ distance: await offloadedDistance(req.body.a, req.body.b) });
});

const server = app.listen(process.env.PORT ?? 3000, () => {
  console.log(`Unblocked: http://localhost:${server.address().port}/`);
});

process.once('SIGTERM', () => server.close());
