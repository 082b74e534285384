import { execFile } from 'node:child_process';
import path from 'node:path';
import { promisify } from 'node:util';

const SIMULATION = path.join(__dirname, '..', '..', 'benchmarks', 'simulation', 'run.mjs');
const run = promisify(execFile);

async function simulate(...args: string[]): Promise<Record<string, any>[]> {
  const { stdout } = await run(process.execPath, [SIMULATION, '--json', '--seeds', '10', ...args]);
  return JSON.parse(stdout);
}

jest.setTimeout(900_000);

/** A trap: the few inputs that look hopeless are not, and where no worker is ever idle, nothing shows it. */
const TRAP = 'capped';

test('over ten seeds and every scenario, `size` costs no answers, and refuses nothing that could be done', async () => {
  const rows = await simulate();
  expect(rows.length).toBeGreaterThanOrEqual(48);
  for (const { scenario, load, withSize, withoutSize, wronglyForSizePercent } of rows) {
    const isRight = scenario === TRAP || wronglyForSizePercent < 0.5;
    expect([scenario, load, withSize > withoutSize - 6, isRight]).toEqual([scenario, load, true, true]);
  }
  const at = (scenario: string) => rows.find((row) => row.scenario === scenario && row.load === 2)?.withSize;
  expect(at('hopeless')).toBeGreaterThan(95);
  expect(at('feasible')).toBeGreaterThan(95);
  expect(at('mixed')).toBeGreaterThan(90);
});

test('over ten seeds, all is well again within 5 s after everything took ten times as long', async () => {
  const rows = await simulate('--slower', '--loads', '0.7,1,1.5');
  for (const { scenario, load, withSize } of rows) {
    expect([scenario, load, withSize <= 5]).toEqual([scenario, load, true]);
  }
});
