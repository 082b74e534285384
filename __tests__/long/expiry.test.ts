import { expireAtRandom } from '../support/expiries';

it('fifty thousand expiries with random limits, extensions and clearings pass in order and in time', async () => {
  await expireAtRandom({ count: 50_000, lasting: 20_000, longest: 5_000 });
}, 120_000);
