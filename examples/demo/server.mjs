// One slow computation behind three routes: in the server's own thread, offloaded to a worker process with a deadline,
// and refused at once where it would not be done in time. The page at / shows what each of them does to everybody else.
import { subscribe } from 'node:diagnostics_channel';
import { createRequire } from 'node:module';
import { availableParallelism } from 'node:os';
import { dirname } from 'node:path';
import { setImmediate } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import express from 'express';
import { closePools, createPool, limitInput, offload, problemDetails, timeout } from 'express-unblock';
import { watch } from 'express-unblock/watch';
import { eventStream } from './events.mjs';
import { createForecast } from './forecast.mjs';
import { findSimilar } from './similarity.mjs';
import { texts } from './texts/texts.mjs';

const DEADLINES = ['1s', '5s', '15s', '60s'];

const app = express();

// Room for two to wait, so that ten at once are more than it takes. One core is left to this process where there are
// several; more than two workers would show nothing more.
const pool = createPool({ workers: availableParallelism() > 2 ? 2 : 1, minWorkers: 1, maxQueue: 2 });

// A comparison leaves nothing half done in its module, so one that is stopped need not cost its process: 'interrupt'
// has the worker back within milliseconds, where 'kill', the default for modules, starts a new one.
const module = new URL('./similarity.mjs', import.meta.url);
const options = { pool, reclaim: 'interrupt', timeout: '60s' };
const plain = offload.module(module, options);
const sized = offload.module(module, { ...options, size: (text) => text.length });

const events = eventStream({ report: () => ({ pool: pool.stats(), forecast: forecast.report(DEADLINES) }) });
const forecast = createForecast({ compare: sized.findSimilar, warmUp: plain.findSimilar, pool, events });
const text = express.text({ limit: '5mb' });
const deadline = timeout((req) => (DEADLINES.includes(req.query.deadline) ? req.query.deadline : '15s'));

// Prints which line of code holds the event loop, and for how long; the page shows it, too. The stack is for the log.
watch({ log: console.log });
subscribe('express-unblock:blocked', ({ stack, ...event }) => events.publish('blocked', event));

app.disable('x-powered-by');
app.use((_req, res, next) => {
  res.set('Content-Security-Policy', "default-src 'self'");
  next();
});

app.post('/blocking', text, compareHere);
app.post('/offloaded', deadline, text, compareBy(plain.findSimilar));
app.post('/limited', limitInput('1mb'), deadline, text, compareBy(sized.findSimilar));

async function compareHere(req, res) {
  events.publish('started', { run: req.query.run });
  await setImmediate(); // Lets the news out: nothing else leaves this process until the comparison is over.
  res.json(findSimilar(req.body ?? ''));
}

function compareBy(offloaded) {
  return async function compareOffloaded(req, res) {
    const { run } = req.query;
    events.publish('started', { run });
    const compare = offloaded.with({ onProgress: (progress) => events.publish('progress', { run, ...progress }) });
    res.json(await compare(req.body ?? ''));
  };
}

app.get('/ping', (_req, res) => {
  res.set('Cache-Control', 'no-store').send('pong');
});

app.get('/events', events.handler);

app.get('/runs', (_req, res) => {
  res.set('Cache-Control', 'no-store').json(forecast.runs);
  void forecast.learnFrom(texts.at(-1).text);
});

app.get('/texts', (_req, res) => {
  res.json(texts.map(({ id, title, sentences }) => ({ id, title, sentences })));
});

app.get('/texts/:id', (req, res, next) => {
  const found = texts.find(({ id }) => id === req.params.id);
  if (found) res.type('text/plain').send(found.text);
  else next();
});

app.use(express.static(fileURLToPath(new URL('./public', import.meta.url))));
app.use('/uplot', express.static(dirname(createRequire(import.meta.url).resolve('uplot'))));
app.use(problemDetails());

const server = app.listen(process.env.PORT ?? 3000, (error) => {
  if (error) throw error;
  console.log(`Demo: http://localhost:${server.address().port}/`);
});

for (const signal of ['SIGINT', 'SIGTERM']) {
  process.once(signal, async () => {
    server.close();
    events.close();
    await closePools();
    await setImmediate(); // Those answers leave first; the page would keep its connection for as long as it is open.
    server.closeAllConnections();
  });
}
