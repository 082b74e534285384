// On SIGTERM: no connection is kept, calls under way finish and their answers go out, then the workers leave, and the
// process ends by itself. There is no process.exit(), which would cut answers off.
import { once } from 'node:events';
import { setTimeout as wait } from 'node:timers/promises';
import express from 'express';
import { closePools, offload, timeout } from 'express-unblock';

const countPrimes = offload(function countPrimes(below) {
  let count = 0;
  for (let n = 2; n < below; n++) {
    let isPrime = true;
    for (let divisor = 2; isPrime && divisor * divisor <= n; divisor++) isPrime = n % divisor !== 0;
    if (isPrime) count++;
  }
  return count;
});

let isClosing = false;
const app = express();
app.use((_req, res, next) => {
  if (isClosing) res.set('Connection', 'close'); // The client asks for the next thing elsewhere.
  next();
});

// With `until: 'response'` no request outlives ten seconds, so that the shutdown does not either.
app.use(timeout('10s', { until: 'response' }));

app.get(
  '/primes/:below',
  countPrimes.handler((req) => [Math.min(Number(req.params.below), 50_000_000)]),
);

const server = app.listen(process.env.PORT ?? 3000, () => {
  console.log(`Graceful shutdown: http://localhost:${server.address().port}/`);
});

process.once('SIGTERM', async () => {
  console.log('Shutting down');
  isClosing = true;
  await wait(2000); // Clients that keep their connection are told so with an answer. A closed one would cost a request.
  server.close();
  setInterval(() => server.closeIdleConnections(), 500).unref();
  await once(server, 'close');
  await closePools();
  console.log('Bye');
});
