// An app as it often is: one route computes, and while it does, nobody gets an answer. examples/unblocked.mjs is the
// same app without that fault; `diff examples/blocked.mjs examples/unblocked.mjs` shows what it takes.
import express from 'express';

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

const app = express();

app.get('/ping', (_req, res) => res.send('pong'));

app.post('/distance', express.json(), (req, res) => {
  res.json({ distance: editDistance(req.body.a, req.body.b) });
});

const server = app.listen(process.env.PORT ?? 3000, () => {
  console.log(`Blocked: http://localhost:${server.address().port}/`);
});

process.once('SIGTERM', () => server.close());
