import { once } from 'node:events';
import path from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';
import { Script } from 'node:vm';
import { Worker } from 'node:worker_threads';
import { CELLS } from './cells';

const shared = new SharedArrayBuffer(16);
const cells = new Int32Array(shared);
let caughtByTasks = 0;

/** What the script calls: defined once, since V8 compiles a script anew for every change of a global it uses. */
let entered: () => unknown;
Object.defineProperty(globalThis, '__unblock', { value: () => entered() });
const script = new Script('__unblock()');

/** Resolves once tasks can be interrupted, and an orphan is noticed. */
export async function startKeeper(parent: number): Promise<void> {
  const keeper = new Worker(path.join(__dirname, 'keeper.js'), {
    workerData: { parent, shared },
    // What NODE_OPTIONS preloads would run in the keeper, too, and take it for an app.
    execArgv: [],
    env: {},
  });
  await once(keeper, 'message');
  keeper.unref();
}

/**
 * Runs JavaScript so that a SIGINT ends it, wherever it is, and the process lives on: Node's `breakOnSigint`.
 * Every signal either lands in the task or in the keeper, and is counted there.
 *
 * @throws whatever `fn` throws, or the error of Node when interrupted, which `wasInterrupted` recognises
 */
export function interruptible<T>(fn: () => T): T {
  awaitKeeper();
  entered = fn;
  Atomics.store(cells, CELLS.busy, 1);
  try {
    return script.runInThisContext({ breakOnSigint: true, displayErrors: false }) as T;
  } catch (error) {
    if (wasInterrupted(error)) caughtByTasks++;
    throw error;
  } finally {
    Atomics.store(cells, CELLS.busy, 0);
    Atomics.notify(cells, CELLS.busy);
  }
}

/** A signal goes to whoever entered last. A keeper still on its way back in would take those meant for the task. */
function awaitKeeper(): void {
  for (;;) {
    const inside = Atomics.load(cells, CELLS.inside);
    if (inside === Atomics.load(cells, CELLS.caught)) return;
    Atomics.wait(cells, CELLS.inside, inside, 1);
  }
}

export function wasInterrupted(error: unknown): boolean {
  try {
    return (error as { code?: unknown } | null)?.code === 'ERR_SCRIPT_EXECUTION_INTERRUPTED';
  } catch {
    return false; // A task may throw what throws when it is looked at.
  }
}

export function interruptsLanded(): number {
  return caughtByTasks + Atomics.load(cells, CELLS.caught);
}

/**
 * Signals that arrive close together land as one, and are not told apart from one that is still on its way. So this
 * waits, sends this process another, which Node's watcher hands on after all that came before, and waits for that.
 *
 * @returns how many have landed, with none left to come; `undefined` when the last one never did
 */
export async function awaitInterrupts(sent: number): Promise<number | undefined> {
  for (let waited = 0; waited < 5; waited++) {
    if (interruptsLanded() >= sent) return interruptsLanded();
    await wait(1);
  }
  const before = interruptsLanded();
  awaitKeeper(); // With nobody inside, a SIGINT is the end of the process.
  process.kill(process.pid, 'SIGINT');
  for (let waited = 0; interruptsLanded() === before; waited++) {
    if (waited === 50) return undefined;
    await wait(1);
  }
  await wait(2);
  return interruptsLanded();
}
