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

/** The function that the script calls. The global never changes, since V8 would compile the script again. */
let entered: () => unknown;
Object.defineProperty(globalThis, '__unblock', { value: () => entered() });
const script = new Script('__unblock()');

/** Starts it once. It takes as long to come up as a process, so nothing waits for it. */
export function startKeeper(parent: number, ledger: number | undefined): void {
  if (isStarted) return;
  isStarted = true;
  orders = ledger;
  const keeper = new Worker(path.join(__dirname, 'keeper.js'), {
    workerData: { parent, shared, ledger },
    // Modules that NODE_OPTIONS preloads must not run in the keeper as well.
    execArgv: [],
    env: {},
  });
  keeper.unref();
}

/** How many signals may arrive while a first call ends. */
const NESTED = 8;

/**
 * Runs JavaScript so that a SIGINT ends it, wherever it is, and the process lives on: Node's `breakOnSigint`.
 *
 * @param careful an interrupt of an earlier call may be on its way: wait until the keeper would take it
 * @throws whatever `fn` throws, or the error of Node when interrupted, which `wasInterrupted` recognises
 */
export function interruptible<T>(call: number, fn: () => T, careful: boolean): T {
  return isKept() ? enter(call, fn, careful) : sheltered(call, fn, careful);
}

function enter<T>(call: number, fn: () => T, careful: boolean): T {
  let begun = false;
  const begin = () => {
    const entry = announce(call);
    // The parent's signal may have come before this entry, and no keeper is there to repeat it.
    if (!isKept() && isOrdered(call)) throw INTERRUPTED;
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
      // The signal was meant for an earlier call: begin again.
      if (Atomics.load(cells, CELLS.interrupted) === call) throw error;
    } finally {
      leave();
    }
  }
}

/**
 * Runs a call before the keeper has entered its scripts. A SIGINT that finds no script ends the process, and a first
 * call may be interrupted more than once: by the keeper, which repeats signals, and by process managers. Scripts around
 * the call take those.
 */
function sheltered<T>(call: number, fn: () => T, careful: boolean): T {
  let mayBegin = true;
  const begin = () => {
    mayBegin = false;
    return fn();
  };
  let settle = (): T => {
    throw INTERRUPTED;
  };
  const nest = (left: number): void => {
    if (left > 0) {
      try {
        runScript(() => nest(left - 1));
      } catch {
        // This script has taken a signal.
      }
      leaveToKeeper(call);
      return;
    }
    try {
      const value = enter(call, begin, careful);
      settle = () => value;
    } catch (error) {
      mayBegin = false;
      settle = () => {
        throw error;
      };
    }
  };
  // A signal that was meant for an earlier call may end these scripts before the call has begun.
  do nest(NESTED);
  while (mayBegin && orders !== undefined && !isOrdered(call));
  passGate(); // Keeps the keeper from entering meanwhile.
  if (!isKept()) takeInterruptsAgain();
  leave();
  return settle();
}

function isOrdered(call: number): boolean {
  return orders !== undefined && orderIn(orders) === call;
}

/** A keeper that has come up may be about to send one more signal: wait until it would take that signal itself. */
function leaveToKeeper(call: number): void {
  leave(); // A script that a signal has ended did not.
  const isUp = Atomics.load(cells, CELLS.guarded) > 0 || Atomics.load(cells, CELLS.interrupted) === call;
  if (isUp) Atomics.wait(cells, CELLS.inside, 0);
}

function runScript<T>(fn: () => T): T {
  entered = () => {
    hideInterruptListeners(false);
    return fn();
  };
  hideInterruptListeners(true);
  return script.runInThisContext({ breakOnSigint: true, displayErrors: false }) as T;
}

/** Opens the gate first, since the end of an entry wakes the keeper, which then tries to enter. */
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

/** Called from within the script, so that the keeper's guard is entered after it and takes signals first. */
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

/** The keeper is there, and takes signals that are not for the running task. */
export function isKept(): boolean {
  return Atomics.load(cells, CELLS.inside) > 0;
}

const INTERRUPTED = Object.assign(new Error('Interrupted'), { code: 'ERR_SCRIPT_EXECUTION_INTERRUPTED' });

/** A signal has ended the call; not the parent's order alone, whose signal may still come. */
export function tookSignal(error: unknown): boolean {
  return error !== INTERRUPTED && wasInterrupted(error);
}

export function wasInterrupted(error: unknown): boolean {
  try {
    return (error as { code?: unknown } | null)?.code === 'ERR_SCRIPT_EXECUTION_INTERRUPTED';
  } catch {
    return false; // A task may throw an object whose getters throw.
  }
}
