import { spawn } from 'node:child_process';
import { once } from 'node:events';
import path from 'node:path';
import { text } from 'node:stream/consumers';

const LABORATORY = path.join(__dirname, '..', '..', 'benchmarks', 'chaos', 'run.mjs');

async function chaos(...args: string[]) {
  const child = spawn(process.execPath, [LABORATORY, ...args], { stdio: ['ignore', 'pipe', 'inherit'] });
  const [output, [code]] = await Promise.all([text(child.stdout), once(child, 'exit')]);
  return { code, output };
}

test('a storm of faults loses, doubles, hangs and falsifies no call', async () => {
  const { code, output } = await chaos('--calls', '300', '--seed', '20');

  expect(output).toContain('lost / duplicated / hung / wrong: 0 / 0 / 0 / 0');
  expect(output).toMatch(/faults injected\n.*SIG/);
  expect(code).toBe(0);
}, 120_000);

test('a part of a storm can be played again, alone', async () => {
  const { code, output } = await chaos('--only', '100..119', '--seed', '20');

  expect(output).toContain('20 calls in');
  expect(code).toBe(0);
}, 60_000);
