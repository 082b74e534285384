import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { subscribe, unsubscribe } from 'node:diagnostics_channel';
import { once } from 'node:events';
import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { text } from 'node:stream/consumers';
import { setTimeout as wait } from 'node:timers/promises';

export const ROOT = path.join(__dirname, '..', '..');
const FIXTURES = path.join(__dirname, '..', 'offload-fixtures');

export function fixture(name: string): string {
  return path.join(FIXTURES, name);
}

/** A process that ended and that nobody has asked about since (a zombie) is not alive. */
export function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return !existsSync('/proc/self/stat') || !/^\d+ \(.*\) [ZX]/s.test(readFileSync(`/proc/${pid}/stat`, 'utf8'));
  } catch {
    return false;
  }
}

/** Polls what has no event: another process, a file. */
export async function until(condition: () => boolean, limit = 10_000): Promise<void> {
  for (const end = performance.now() + limit; !condition(); ) {
    if (performance.now() > end) throw new Error(`Not within ${limit} ms: ${condition}`);
    await wait(2);
  }
}

/** Milliseconds until none of the processes is there. */
export async function untilGone(...pids: number[]): Promise<number> {
  const since = performance.now();
  await until(() => !pids.some(isAlive));
  return performance.now() - since;
}

export function childrenOf(parent: number): number[] {
  const lines = execFileSync('ps', ['-A', '-o', 'pid=,ppid=,args='], { encoding: 'utf8' }).split('\n');
  return lines
    .filter((line) => line.includes('worker/main.js'))
    .map((line) => line.trim().split(/\s+/).map(Number))
    .filter(([, ppid]) => ppid === parent)
    .map(([pid]) => pid as number);
}

/** The processes forked while `action` runs, which sees them come. */
export async function forkedDuring(
  action: (forked: readonly ChildProcess[]) => Promise<unknown>,
): Promise<ChildProcess[]> {
  const forked: ChildProcess[] = [];
  const onFork = (message: unknown) => forked.push((message as { process: ChildProcess }).process);
  subscribe('child_process', onFork);
  try {
    await action(forked);
  } finally {
    unsubscribe('child_process', onFork);
  }
  return forked;
}

export interface Ended {
  code: number | null;
  signal: NodeJS.Signals | null;
  stdout: string;
  stderr: string;
}

/** Runs Node in the package's folder, where it knows itself by name. */
export function startNode(...args: string[]) {
  const child = spawn(process.execPath, args, { cwd: ROOT, detached: true, stdio: ['ignore', 'pipe', 'pipe', 'ipc'] });
  const stdout = text(child.stdout as NodeJS.ReadableStream);
  const stderr = text(child.stderr as NodeJS.ReadableStream);
  const ended = (async (): Promise<Ended> => {
    const [code, signal] = await once(child, 'exit');
    return { code, signal, stdout: await stdout, stderr: await stderr };
  })();
  return { child, ended };
}

export function runNode(...args: string[]): Promise<Ended> {
  return startNode(...args).ended;
}
