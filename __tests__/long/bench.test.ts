import { execFile } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import { describeWithRedis } from '../support/redis';

const run = promisify(execFile);
const RUNNER = path.join(__dirname, '..', '..', 'benchmarks', 'run.mjs');

const ROWS = {
  timeout: [
    'bare Express',
    'timeout()',
    'express-timeout-handler',
    'connect-timeout',
    'AsyncLocalStorage alone',
    "a timer and a 'close' listener",
  ],
  'limit-input': [
    'express.json(), Content-Length',
    'limitInput(), Content-Length',
    'express.json(), chunked',
    'limitInput(), chunked',
    'express.json()',
    'limitInput()',
    'limitInput(json)',
    'numbers only',
  ],
  offload: ['offload()', "offload(), reclaim: 'kill'", 'workerpool (process)', 'piscina (thread)', 'tinypool (thread)'],
  load: [
    'timeout() + offload({ size })',
    'timeout() + offload()',
    'blocking Express',
    'connect-timeout',
    'connect-timeout + workerpool',
    'piscina + AbortController',
    'oracle (simulated)',
    'to decide',
  ],
  watch: ['bare Express', 'watch()', 'one sample, µs', 'memory, MB'],
};

const ROWS_WITH_REDIS = {
  machines: ['a local pool', 'connectPool(), through Redis', 'BullMQ, waitUntilFinished()'],
};

let results: string;

beforeEach(() => {
  results = mkdtempSync(path.join(tmpdir(), 'bench-test-'));
});

afterEach(() => {
  rmSync(results, { recursive: true });
});

function bench(...names: string[]) {
  const env = { ...process.env, BENCH_QUICK: '1', BENCH_RESULTS: results };
  return run(process.execPath, [RUNNER, ...names], { env, timeout: 170_000 });
}

/** The rows of all tables of a result, each by its first cell, with the other cells. */
function rowsOf(markdown: string): [string, string[]][] {
  return [...markdown.matchAll(/^\| (.*) \|$/gm)].map(([, row]) => {
    const [name, ...cells] = (row as string).split(' | ');
    return [name as string, cells];
  });
}

async function measuresAll(name: string, expected: string[]): Promise<void> {
  const { stdout } = await bench(name);
  const markdown = readFileSync(path.join(results, `${name}.md`), 'utf8');
  const rows = rowsOf(markdown);

  for (const row of expected) {
    const cells = rows.filter(([first]) => first === row).flatMap(([, rest]) => rest);
    expect([row, cells.some((cell) => /\d/.test(cell))]).toEqual([row, true]);
  }
  expect(markdown).not.toMatch(/NaN|undefined|Infinity/);
  expect(stdout).toContain(markdown);

  const svg = readFileSync(path.join(results, `${name}.svg`), 'utf8');
  expect(markdown).toContain(`](${name}.svg)`);
  expect(svg).toContain('prefers-color-scheme: dark');
  expect(svg).not.toMatch(/NaN|undefined|Infinity/);
}

const MEASURES = '%s measures every contender and draws a picture';

describeWithRedis('npm run bench, with Redis', () => {
  test.each(Object.entries(ROWS_WITH_REDIS))(MEASURES, measuresAll, 180_000);
});

describe('npm run bench', () => {
  test.each(Object.entries(ROWS))(MEASURES, measuresAll, 180_000);

  test('a name that does not exist is refused, with the names that do', async () => {
    await expect(bench('speed')).rejects.toMatchObject({
      code: 1,
      stderr: expect.stringContaining('timeout, limit-input, offload, load, watch'),
    });
    expect(existsSync(path.join(results, 'speed.md'))).toBe(false);
  });
});
