// On SIGTERM: no new connections, calls under way finish and their answers go out, then the workers leave, and the
// process ends by itself. There is no process.exit(), which would cut answers off.
import { once } from 'node:events';
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

const app = express();

// A connection that is kept alive would hold the server for seconds after its last answer.
app.use((_req, res, next) => {
  res.once('close', () => server.listening || server.closeIdleConnections());
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
  server.close();
  await once(server, 'close');
  await closePools();
  console.log('Bye');
});
