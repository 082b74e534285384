// Hashing a password takes a quarter of a second of computing, on purpose. Here it runs in workers, so that a rush of
// logins slows down nothing but logins.
import express from 'express';
import { createPool, limitInput, offload, problemDetails, timeout } from 'express-unblock';

// A login is better refused at once than after waiting: at most eight wait.
const pool = createPool({ workers: 2, minWorkers: 1, maxQueue: 8 });
const tasks = offload.module(new URL('./tasks.mjs', import.meta.url), { pool });

const users = new Map();

const app = express();
app.use(limitInput('1kb'), express.json(), timeout('5s'));

app.post('/users', async (req, res) => {
  const { name, password } = req.body;
  users.set(name, await tasks.hash(password));
  res.sendStatus(201);
});

app.post('/login', async (req, res) => {
  const { name, password } = req.body;
  const known = users.has(name) && (await tasks.verify(password, users.get(name)));
  res.sendStatus(known ? 204 : 401);
});

app.get('/ping', (_req, res) => res.send('pong'));
app.use(problemDetails());

const server = app.listen(process.env.PORT ?? 3000, () => {
  console.log(`Password hashing: http://localhost:${server.address().port}/`);
});

process.once('SIGTERM', () => server.close());
