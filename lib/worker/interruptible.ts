import { once } from 'node:events';
import path from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';
import { Script } from 'node:vm';
import { Worker } from 'node:worker_threads';

/**
 * Runs JavaScript so that a SIGINT ends it, wherever it is, and the process lives on: Node's `breakOnSigint`.
 * Every signal either lands in the task or in the keeper, and is counted there.
 */
const shared = new SharedArrayBuffer(8);
const caughtByKeeper = new Int32Array(shared, 4);
let caughtByTasks = 0;

const ENTRY = '__unblock';
const script = new Script(`${ENTRY}()`);

/** Resolves once tasks can be interrupted, and an orphan is noticed. */
export async function startKeeper(parent: number): Promise<void> {
  const keeper = new Worker(path.join(__dirname, 'keeper.js'), { workerData: { parent, shared }, execArgv: [] });
  await once(keeper, 'message');
  keeper.unref();
}

/** @throws whatever `fn` throws, or the error of Node when interrupted, which `wasInterrupted` recognises */
export function interruptible<T>(fn: () => T): T {
  Object.defineProperty(globalThis, ENTRY, { value: fn, configurable: true });
  try {
    return script.runInThisContext({ breakOnSigint: true, displayErrors: false }) as T;
  } catch (error) {
    if (wasInterrupted(error)) caughtByTasks++;
    throw error;
  }
}

export function wasInterrupted(error: unknown): boolean {
  return (error as { code?: unknown } | null)?.code === 'ERR_SCRIPT_EXECUTION_INTERRUPTED';
}

export function interruptsLanded(): number {
  return caughtByTasks + Atomics.load(caughtByKeeper, 0);
}

/**
 * Signals that arrive close together land as one, and are not told apart from one that is still on its way. So this
 * waits, sends this process another, which Node's watcher hands on after all that came before, and waits for that.
 *
 * @returns how many have landed, with none left to come; `undefined` when the last one never did
 */
export async function awaitInterrupts(sent: number): Promise<number | undefined> {
  if (interruptsLanded() >= sent) return interruptsLanded();
  await wait(5);
  const before = interruptsLanded();
  process.kill(process.pid, 'SIGINT');
  for (let waited = 0; interruptsLanded() === before; waited++) {
    if (waited === 50) return undefined;
    await wait(1);
  }
  await wait(2);
  return interruptsLanded();
}
