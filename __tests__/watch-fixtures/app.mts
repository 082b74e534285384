import type { Request, Response } from 'express';
import express from 'express';
import { compute } from './compute.cjs';

interface Row {
  readonly id: number;
}

function summarize(rows: readonly Row[]): number {
  for (let n = 0; n < 10; n++) compute(20); // typescript
  return rows.length;
}

const app = express();
app.get('/work', async (_req: Request, res: Response) => {
  await new Promise((resolve) => setTimeout(resolve, 10));
  res.send(String(summarize([{ id: 1 }])));
});
const server = app.listen(0, () => {
  console.log(`http://localhost:${(server.address() as { port: number }).port}`);
});
