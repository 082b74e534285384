export function countPrimes(below: number): number {
  let count = 0;
  for (let n = 2; n < below; n++) {
    let isPrime = true;
    for (let divisor = 2; isPrime && divisor * divisor <= n; divisor++) isPrime = n % divisor !== 0;
    if (isPrime) count++;
  }
  return count;
}
