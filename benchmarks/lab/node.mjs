import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { mkdir, rename, rm } from 'node:fs/promises';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

/** The oldest Node whose figures are worth publishing: on older ones the async context alone costs more than Express. */
export const CURRENT = 24;

const CACHE = fileURLToPath(new URL('../../node_modules/.cache/express-unblock/', import.meta.url));
const FETCHED_WITHIN_MS = 5 * 60_000;

const majorOf = (version) => Number.parseInt(version.replace(/^v/, ''), 10);

/**
 * An executable of that major version of Node: the one that runs this, or one from the npm package `node`, which is
 * fetched into a cache below `node_modules` the first time.
 */
export async function nodeOf(major) {
  if (majorOf(process.version) === major) return process.execPath;
  const folder = path.join(CACHE, `node-${major}`);
  const executable = path.join('node_modules', 'node', 'bin', process.platform === 'win32' ? 'node.exe' : 'node');
  if (!existsSync(path.join(folder, executable))) await fetchNode(major, folder);
  return path.join(folder, executable);
}

/** Runs this program once more on a current Node where this one is older, and ends with it. */
export async function needCurrentNode() {
  if (majorOf(process.version) >= CURRENT) return;
  const program = spawn(await nodeOf(CURRENT), [...process.execArgv, ...process.argv.slice(1)], { stdio: 'inherit' });
  for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => program.kill(signal));
  const [code] = await once(program, 'exit');
  process.exit(code ?? 1);
}

/** Into a folder of its own first: a fetch that was broken off leaves nothing that looks whole. */
async function fetchNode(major, folder) {
  const fresh = `${folder}-${process.pid}`;
  await mkdir(fresh, { recursive: true });
  try {
    const settings = ['--prefix', fresh, '--no-audit', '--no-fund', '--no-save', '--ignore-scripts=false'];
    await promisify(execFile)('npm', ['install', ...settings, `node@${major}`], {
      timeout: FETCHED_WITHIN_MS,
      shell: process.platform === 'win32',
    });
    await rm(folder, { recursive: true, force: true });
    await rename(fresh, folder);
  } catch (cause) {
    throw new Error(`Node ${major} could not be fetched with npm: ${cause.message}`, { cause });
  } finally {
    await rm(fresh, { recursive: true, force: true });
  }
}
