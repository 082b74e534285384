import express from 'express';
import { limitInput } from 'express-unblock';
import { serve } from '../lab/http-app.mjs';

const guards = {
  parser: [express.json({ limit: 100_000 })],
  ours: [limitInput(100_000), express.json({ limit: 100_000 })],
  shape: [limitInput(100_000, { json: { depth: 32, keys: 10_000 } }), express.json({ limit: 100_000 })],
}[process.argv[2]];

const app = express();
for (const guard of guards) app.use(guard);
app.post('/', (req, res) => {
  res.json({ keys: Object.keys(req.body).length });
});
app.use((error, req, res, _next) => {
  res.status(error.status).set('X-Taken-In', req.socket.bytesRead).json({ message: error.message });
});
await serve(app);
