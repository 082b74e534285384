// Three services in a chain: the shop asks the stock, the stock asks the forecast, and that computes. Each hands on how
// much time is left. A client that is impatient, by leaving or by a header, stops the work in all three:
//
//     curl -m 1 'http://localhost:3000/report?days=3000'
//     curl -H 'x-envoy-expected-rq-timeout-ms: 500' 'http://localhost:3000/report?days=3000'
import { once } from 'node:events';
import express from 'express';
import { createPool, offload, problemDetails, timeout } from 'express-unblock';

const pool = createPool({ workers: 1 });

function forecast(days) {
  let demand = 1;
  for (let day = 0; day < days; day++) {
    for (let n = 0; n < 10_000_000; n++) demand = (demand * 16_807) % 2_147_483_647;
  }
  return demand % 1000;
}

const runForecast = offload(forecast, { pool });

/** Each would be a process of its own, on a machine of its own. */
async function listen(name, port, report) {
  const app = express();
  app.use(timeout('10s', { upstream: true }));
  app.get('/report', async (req, res) => {
    console.log(`${name} begins, ${(req.deadline.remaining() / 1000).toFixed(1)} s left`);
    res.once('close', () => console.log(`${name} ends: ${req.deadline.signal.reason?.code ?? res.statusCode}`));
    res.json(await report(req));
  });
  app.use(problemDetails());
  const server = app.listen(port);
  await once(server, 'listening');
  process.once('SIGTERM', () => server.close());
  return `http://localhost:${server.address().port}`;
}

async function ask(service, { deadline, url }) {
  const answer = await fetch(service + url, { signal: deadline.signal, headers: deadline.headers() });
  if (!answer.ok) throw Object.assign(new Error(`${service} answered ${answer.status}`), { status: answer.status });
  return answer.json();
}

const forecasts = await listen('forecast', 0, async ({ query }) => ({ demand: await runForecast(Number(query.days)) }));
const stock = await listen('stock', 0, async (req) => ({ ...(await ask(forecasts, req)), stock: 120 }));
const shop = await listen('shop', process.env.PORT ?? 3000, async (req) => ({ ...(await ask(stock, req)), price: 9 }));

console.log(`Chain: ${shop}/`);
