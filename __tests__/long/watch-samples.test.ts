import { runSamples } from '../support/samples';

test('300,000 samples are noticed by nothing', async () => {
  expect(await runSamples(300_000)).toMatchObject({ code: 0, output: expect.stringContaining('faults: 0') });
}, 3_600_000);
