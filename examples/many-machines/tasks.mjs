// Runs in the worker processes of whichever machine has one to spare.
import { hostname } from 'node:os';
import { progress } from 'express-unblock/worker';

/** How many primes there are below a number, and who has counted them. */
export function countPrimes(below) {
  const isComposite = new Uint8Array(below);
  let count = 0;
  for (let n = 2; n < below; n++) {
    if (n % 100_000 === 0) progress({ at: n, of: below });
    if (isComposite[n]) continue;
    count++;
    for (let multiple = n * n; multiple < below; multiple += n) isComposite[multiple] = 1;
  }
  return { count, countedBy: `${hostname()}, process ${process.ppid}` };
}
