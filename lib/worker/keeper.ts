import { Script } from 'node:vm';
import { parentPort, workerData } from 'node:worker_threads';
import { CELLS } from './cells';

/**
 * A thread that stays inside interruptible scripts for the life of its process. While it does:
 * - an interruptible call on the main thread costs a microsecond, since Node's signal watcher is up already;
 * - a SIGINT that finds no task running lands here, harmlessly, and is counted;
 * - however busy the main thread is, somebody looks whether the parent still lives, and ends an orphan.
 *
 * A SIGINT goes to the script entered last, which has to be the task's: this thread enters while none runs, and loops
 * inside. The signal ends that script, and one that finds no script at all ends the process: so they are nested deeper
 * than signals are sent for one call.
 */
const { parent, shared } = workerData as { parent: number; shared: SharedArrayBuffer };
const LOOK_EVERY_MS = 100;
const NESTED = 8;

const cells = new Int32Array(shared);
const script = new Script('__unblock()');
let entered = 0;
Object.assign(globalThis, { __unblock: stay });

function stay(): never {
  for (;;) {
    if (entered < NESTED) enter();
    else {
      Atomics.store(cells, CELLS.inside, Atomics.load(cells, CELLS.caught));
      Atomics.notify(cells, CELLS.inside);
      sleepOn(CELLS.sleep, 0);
    }
  }
}

function enter(): void {
  const outside = entered;
  try {
    entered++;
    script.runInThisContext({ breakOnSigint: true });
  } catch {
    entered = outside;
    Atomics.add(cells, CELLS.caught, 1);
    // The signal came just before a task was entered. The next one finds the task, if nobody enters behind it.
    while (Atomics.load(cells, CELLS.busy) === 1) sleepOn(CELLS.busy, 1);
  }
}

function sleepOn(cell: number, value: number): void {
  Atomics.wait(cells, cell, value, LOOK_EVERY_MS);
  // With all that its tasks have started: on all systems but Windows it leads a group of its own.
  if (process.ppid !== parent) process.kill(process.platform === 'win32' ? process.pid : -process.pid, 'SIGKILL');
}

parentPort?.postMessage('watching');
stay();
