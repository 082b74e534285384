import { execFile } from 'node:child_process';
import path from 'node:path';
import { promisify } from 'node:util';

const SIMULATION = path.join(__dirname, '..', 'benchmarks', 'simulation', 'run.mjs');
const run = promisify(execFile);

/** The pool's own queue, model and decisions, under a simulated clock; the same seeds give the same figures. */
async function simulate(...args: string[]): Promise<Record<string, any>[]> {
  const { stdout } = await run(process.execPath, [SIMULATION, '--json', ...args]);
  return JSON.parse(stdout);
}

jest.setTimeout(60_000);

describe('with `size`, where more is asked for than can be done', () => {
  test('most of what an oracle would serve is served among hopeless inputs, and they are told at once', async () => {
    const [row] = await simulate('hopeless', '--loads', '2', '--seeds', '3');
    expect(row?.withoutSize).toBeLessThan(40);
    expect(row?.withSize).toBeGreaterThan(85);
    expect(row?.toldMsWithSize).toBeLessThan(50);
    expect(row?.wastedWithSize).toBeLessThan(0.2 * row?.wastedWithoutSize);
  });

  test('most of what an oracle would serve is served where every input could be done', async () => {
    const [row] = await simulate('feasible', '--loads', '2', '--seeds', '3');
    expect(row?.withSize).toBeGreaterThan(73);
  });

  test('nothing much is lost where the size tells nothing, and nothing that could be done is too large', async () => {
    const rows = await simulate('mixed', 'bimodal', 'exponential', '--loads', '1', '--seeds', '3');
    for (const { scenario, load, withSize, withoutSize, wronglyForSizePercent } of rows) {
      expect([scenario, load, withSize > withoutSize - 6, wronglyForSizePercent < 0.5]).toEqual([
        scenario,
        load,
        true,
        true,
      ]);
    }
  });

  test('all is well again within seconds after everything took ten times as long', async () => {
    const rows = await simulate('linear', 'hopeless', 'quadratic', '--loads', '1', '--seeds', '3', '--slower');
    for (const { scenario, withSize } of rows) expect([scenario, withSize <= 5]).toEqual([scenario, true]);
  });
});
