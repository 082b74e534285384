import path from 'node:path';
import { Script } from 'node:vm';
import { Worker } from 'node:worker_threads';
import { CELLS, GATE, orderIn } from './cells';
import { hideInterruptListeners, takeInterruptsAgain } from './signals';

const shared = new SharedArrayBuffer(4 * Object.keys(CELLS).length);
const cells = new Int32Array(shared);
let entries = 0;
let orders: number | undefined;
let isStarted = false;

/** What the script calls: defined once, since V8 compiles a script anew for every change of a global it uses. */
let entered: () => unknown;
Object.defineProperty(globalThis, '__unblock', { value: () => entered() });
const script = new Script('__unblock()');

/** Once. It takes as long to come up as a process, and enters its scripts when no task runs: nothing waits for it. */
export function startKeeper(parent: number, ledger: number | undefined): void {
  if (isStarted) return;
  isStarted = true;
  orders = ledger;
  const keeper = new Worker(path.join(__dirname, 'keeper.js'), {
    workerData: { parent, shared, ledger },
    // What NODE_OPTIONS preloads would run in the keeper, too, and take it for an app.
    execArgv: [],
    env: {},
  });
  keeper.unref();
}

/** How many signals a first call's end may meet, and live. */
const NESTED = 8;

/**
 * Runs JavaScript so that a SIGINT ends it, wherever it is, and the process lives on: Node's `breakOnSigint`.
 *
 * @param careful an interrupt of an earlier call may be on its way: nothing begins before the keeper takes it
 * @throws whatever `fn` throws, or the error of Node when interrupted, which `wasInterrupted` recognises
 */
export function interruptible<T>(call: number, fn: () => T, careful: boolean): T {
  return isKept() ? enter(call, fn, careful) : sheltered(() => enter(call, fn, careful));
}

function enter<T>(call: number, fn: () => T, careful: boolean): T {
  let begun = false;
  const begin = () => {
    const entry = announce(call);
    // The parent's signal may have come before this, and the keeper, which would repeat it, is not there.
    if (!isKept() && orders !== undefined && orderIn(orders) === call) throw INTERRUPTED;
    if (careful) awaitGuard(entry);
    begun = true;
    return fn();
  };
  for (;;) {
    passGate();
    try {
      return runScript(begin);
    } catch (error) {
      if (begun || !wasInterrupted(error) || error === INTERRUPTED) throw error;
      // One for an earlier call, or else for this one.
      if (Atomics.load(cells, CELLS.interrupted) === call) throw error;
    } finally {
      leave();
    }
  }
}

/**
 * A signal that finds no script ends the process, and the keeper, which comes up while the first call runs, has none
 * behind it: the signals that it repeats, and those that come from elsewhere, find these.
 */
function sheltered<T>(fn: () => T): T {
  let settle = (): T => {
    throw INTERRUPTED;
  };
  const nest = (left: number): void => {
    if (left > 0) {
      try {
        runScript(() => nest(left - 1));
      } catch {
        // It has taken a signal.
      }
      leaveToKeeper();
      return;
    }
    try {
      const value = fn();
      settle = () => value;
    } catch (error) {
      settle = () => {
        throw error;
      };
    }
  };
  nest(NESTED);
  passGate(); // So that the keeper does not enter meanwhile.
  if (!isKept()) takeInterruptsAgain();
  leave();
  return settle();
}

/** Once it is there, it may be about to send another signal: it is waited for until it takes that itself. */
function leaveToKeeper(): void {
  leave(); // What has taken a signal may not have come as far as that.
  if (Atomics.load(cells, CELLS.guarded) > 0) Atomics.wait(cells, CELLS.inside, 0);
}

function runScript<T>(fn: () => T): T {
  entered = () => {
    hideInterruptListeners(false);
    return fn();
  };
  hideInterruptListeners(true);
  return script.runInThisContext({ breakOnSigint: true, displayErrors: false }) as T;
}

/** The gate first: the keeper, which wakes at the end of an entry, then enters at once. */
function leave(): void {
  Atomics.compareExchange(cells, CELLS.gate, GATE.task, GATE.free);
  Atomics.store(cells, CELLS.entry, 0);
  Atomics.notify(cells, CELLS.entry);
}

function passGate(): void {
  while (Atomics.compareExchange(cells, CELLS.gate, GATE.free, GATE.task) !== GATE.free) {
    Atomics.wait(cells, CELLS.gate, GATE.keeper);
  }
}

/** From within the script: the keeper, which enters on hearing of it, is then the one behind. */
function announce(call: number): number {
  entries = (entries % 0x7fff_ffff) + 1;
  Atomics.store(cells, CELLS.call, call);
  Atomics.store(cells, CELLS.entry, entries);
  Atomics.notify(cells, CELLS.entry);
  return entries;
}

function awaitGuard(entry: number): void {
  for (;;) {
    const guarded = Atomics.load(cells, CELLS.guarded);
    if (guarded === entry) return;
    Atomics.wait(cells, CELLS.guarded, guarded);
  }
}

/** Whether the keeper takes signals that are not for the running task. */
export function isKept(): boolean {
  return Atomics.load(cells, CELLS.inside) > 0;
}

const INTERRUPTED = Object.assign(new Error('Interrupted'), { code: 'ERR_SCRIPT_EXECUTION_INTERRUPTED' });

export function wasInterrupted(error: unknown): boolean {
  try {
    return (error as { code?: unknown } | null)?.code === 'ERR_SCRIPT_EXECUTION_INTERRUPTED';
  } catch {
    return false; // A task may throw what throws when it is looked at.
  }
}
