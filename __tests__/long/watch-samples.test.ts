import { runSamples } from '../support/samples';

test('samples at random moments of what Node and an app do are noticed by nothing', async () => {
  expect(await runSamples(2000)).toMatchObject({ code: 0, output: expect.stringContaining('faults: 0') });
}, 120_000);
