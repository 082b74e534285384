import { Script } from 'node:vm';
import { workerData } from 'node:worker_threads';
import { CELLS, GATE, orderIn } from './cells';

/**
 * A thread that looks after its process, however busy the main thread is:
 * - it ends an orphan;
 * - it takes the SIGINTs that are not for the running task. A process manager signals all processes of an app, and the
 *   parent alone decides which call is interrupted. Node ends the script that was entered last: this thread enters one
 *   after each task has begun;
 * - it passes on the parent's interrupts, which it knows by the order in the ledger. It repeats them until the task has
 *   ended, since V8 misses one now and then;
 * - it keeps Node's signal watcher up, so that entering a script costs the main thread a microsecond instead of 50.
 */
const { parent, shared, ledger } = workerData as { parent: number; shared: SharedArrayBuffer; ledger?: number };
const LOOK_EVERY_MS = 100;
const FIRST_REPEAT_MS = 4;
/**
 * How many scripts it is in while no task runs. Each signal ends the innermost, and a signal that finds none ends the
 * process. While tasks follow each other closely, it may have no time to enter again between several signals.
 */
const NESTED = 24;

const cells = new Int32Array(shared);
const script = new Script('__unblock()');
const ORDERED = new Error('The call is to be interrupted');
let inside = 0;
/** What was sent for the call that is being interrupted, and when to send it again. */
let signals = { call: 0, next: 0, pause: FIRST_REPEAT_MS };
/** The function that the script calls. */
let body: () => void;
Object.assign(globalThis, { __unblock: () => body() });

function stay(): never {
  openGate();
  for (;;) {
    const entry = Atomics.load(cells, CELLS.entry); // Read first: the main thread opens the gate, then ends its entry.
    const mayEnter =
      inside < NESTED && Atomics.compareExchange(cells, CELLS.gate, GATE.free, GATE.keeper) === GATE.free;
    if (mayEnter) enter();
    else watch(entry);
  }
}

/** Only while no task runs: scripts entered after a task's would take the signals meant for the task. */
function enter(): void {
  const outside = inside;
  try {
    Atomics.store(cells, CELLS.inside, ++inside);
    Atomics.notify(cells, CELLS.inside);
    run(stay);
  } catch {
    inside = outside;
    Atomics.store(cells, CELLS.inside, inside);
    openGate();
  }
}

function openGate(): void {
  Atomics.compareExchange(cells, CELLS.gate, GATE.keeper, GATE.free);
  Atomics.notify(cells, CELLS.gate);
}

function watch(entry: number): void {
  if (entry === 0 || ledger === undefined) {
    sleep(entry);
    return;
  }
  try {
    run(() => guard(entry, ledger));
  } catch {
    // A signal has come: the parent's, or one from elsewhere.
    const call = Atomics.load(cells, CELLS.call);
    if (orderIn(ledger) === call) interrupt(entry, call);
  }
}

function guard(entry: number, fd: number): void {
  // The parent's signal may have come before this script was entered.
  if (orderIn(fd) === Atomics.load(cells, CELLS.call)) throw ORDERED;
  Atomics.store(cells, CELLS.guarded, entry);
  Atomics.notify(cells, CELLS.guarded);
  while (Atomics.load(cells, CELLS.entry) === entry) sleep(entry);
}

/**
 * A signal may end one of this thread's own scripts, and with it this function, if the main thread has just left its
 * own: the pauses go on where they were then, or one call would use up all scripts at once.
 *
 * @param call as it was when the order was read: by now the main thread may have begun another
 */
function interrupt(entry: number, call: number): void {
  Atomics.store(cells, CELLS.interrupted, call);
  if (signals.call !== call) signals = { call, next: 0, pause: FIRST_REPEAT_MS };
  while (Atomics.load(cells, CELLS.entry) === entry) {
    const now = performance.now();
    if (now < signals.next) {
      sleep(entry, signals.next - now);
    } else {
      signals.next = now + signals.pause;
      signals.pause *= 2;
      process.kill(process.pid, 'SIGINT');
    }
  }
}

function run(fn: () => void): void {
  body = fn;
  script.runInThisContext({ breakOnSigint: true });
}

/** Sleeps until this entry has ended, or for `ms`; and ends an orphan. */
function sleep(entry: number, ms = LOOK_EVERY_MS): void {
  Atomics.wait(cells, CELLS.entry, entry, ms);
  // Together with the processes that its tasks have started: except on Windows, it leads a process group.
  if (process.ppid !== parent) process.kill(process.platform === 'win32' ? process.pid : -process.pid, 'SIGKILL');
}

stay();
