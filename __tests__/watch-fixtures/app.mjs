import express from 'express';

const app = express();
app.get('/work', async function work(_req, res) {
  const { compute } = await import('./compute.cjs');
  compute(200);
  res.send('done');
});
await new Promise((resolve) => setTimeout(resolve, 10));
const { compute } = await import('./compute.cjs');
compute(Number(process.env.START_MS ?? 0));
const server = app.listen(0, () => {
  console.log(`http://localhost:${server.address().port}`);
});
