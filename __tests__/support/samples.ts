import { spawn } from 'node:child_process';
import { once } from 'node:events';
import path from 'node:path';
import { text } from 'node:stream/consumers';

/** Runs the laboratory of benchmarks/samples. */
export async function runSamples(samples: number) {
  const script = path.join(__dirname, '..', '..', 'benchmarks', 'samples', 'run.mjs');
  const args = [script, '--samples', String(samples), '--seed', '16'];
  const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'inherit'] });
  const [output, [code]] = await Promise.all([text(child.stdout), once(child, 'exit')]);
  return { code, output };
}
