import { notSerializable } from '../errors';
import {
  MOST_TASKS,
  NOTES,
  type Outcome,
  packThrown,
  type TaskDefinition,
  unpackThrown,
  unwrap,
  type WorkerEvent,
  type WorkerMethods,
  wrap,
} from '../wire';
import { cellNumber, type Ledger } from './cells';
import { type CurrentTask, currentTask, type TaskContext } from './current-task';
import { interruptible, isKept, tookSignal, wasInterrupted } from './interruptible';
import { importModule, isSpoiled, load, type TaskFunction, watchLoading } from './tasks';

interface Known {
  readonly definition: TaskDefinition;
  fn: TaskFunction | undefined;
}

const tasks = new Map<number, Known>();
/** How late a signal may arrive on a crowded machine, where the thread of Node that takes it waits for its turn. */
const LATE_MS = 1000;
/** Until when a signal for an earlier call may arrive. */
let straysUntil = 0;
/** Whether the call before this one has taken the signal that was sent for it. */
let tookSignalBefore = false;

interface WorkerSide {
  add(methods: WorkerMethods): void;
  emit(event: WorkerEvent): void;
}

/** Answers the parent, in workerpool's terms. */
export function takeCalls(ledger: Ledger, startKeeper: () => void): void {
  const task = currentTask() as CurrentTask;
  watchLoading();
  // What workerpool itself runs in a worker. Its main entry loads its pools first, which takes 3 ms of each start.
  const side = require('workerpool/src/worker.js') as WorkerSide;
  task.emit = (event) => {
    try {
      side.emit(event);
    } catch (cause) {
      throw notSerializable('A progress report', 'the task', cause);
    }
  };
  side.add(methodsOf(task, ledger, startKeeper));
}

const methodsOf = (task: CurrentTask, ledger: Ledger, startKeeper: () => void): WorkerMethods => ({
  async load(urls) {
    // An import may never end, and the keeper has to be there by then. Without imports, the answer goes first.
    if (urls.length > 0) startKeeper();
    else setImmediate(startKeeper);
    const imported: string[] = [];
    for (const [index, url] of urls.entries()) {
      ledger.note(NOTES.importOf(index));
      if (await importModule(url)) imported.push(url);
    }
    ledger.note(NOTES.nothing);
    return imported;
  },
  run(call, id, definition, args, reclaim, careful) {
    if (definition !== undefined && tasks.size === MOST_TASKS) tasks.clear();
    const known = tasks.get(id) ?? { definition: definition as TaskDefinition, fn: undefined };
    tasks.set(id, known);
    const { name } = known.definition;
    ledger.note(call);
    // Without a keeper nobody repeats signals: once the call before has taken its signal, none is left on its way.
    if (careful && (isKept() || !tookSignalBefore)) straysUntil = performance.now() + LATE_MS;
    tookSignalBefore = false;
    const strays = ledger.fd !== undefined && performance.now() < straysUntil;
    try {
      // Loaded outside of the interruptible part: an interrupt in the middle would leave it half-loaded.
      const fn = known.fn ?? load(known.definition);
      known.fn = fn;
      const enter = (self: TaskContext) => fn.apply(self, unwrap(args) as unknown[]);
      const result = task.begin(call, (self) =>
        reclaim === 'kill' ? enter(self) : interruptible(cellNumber(call), () => enter(self), strays),
      );
      return isThenable(result)
        ? Promise.resolve(result).then((value) => succeeded(name, value), failed)
        : succeeded(name, result);
    } catch (thrown) {
      return failed(thrown);
    }
  },
  abort(call, reason) {
    task.abort(call, unpackThrown(reason));
  },
});

function succeeded(name: string, value: unknown): Outcome {
  try {
    return { ok: true, body: wrap(value) };
  } catch (cause) {
    return failed(notSerializable('The result', name, cause));
  }
}

/** Packed once: packing takes longer than all the rest of an interrupt. */
const interrupted = packThrown(new Error('The task was interrupted by a SIGINT'));

function failed(thrown: unknown): Outcome {
  tookSignalBefore = tookSignal(thrown);
  return { ok: false, body: wasInterrupted(thrown) ? interrupted : packThrown(thrown), spoiled: isSpoiled() };
}

function isThenable(value: unknown): value is PromiseLike<unknown> {
  return typeof (value as { then?: unknown } | null | undefined)?.then === 'function';
}

/** Node warns that `import()` in a function's text is experimental. The user did not choose it and cannot change it. */
const { emitWarning } = process;
process.emitWarning = (warning: string | Error, ...rest: unknown[]) => {
  if (String(warning).includes('USE_MAIN_CONTEXT_DEFAULT_LOADER')) return;
  Reflect.apply(emitWarning, process, [warning, ...rest]);
};

/** workerpool reads every message that a task sends to the parent. It ignores those of others, but throws at `null`. */
const send = process.send as (...args: unknown[]) => boolean;
process.send = (...args: unknown[]) => args[0] === null || Reflect.apply(send, process, args);

// A message cannot be sent once the parent has gone.
process.on('error', () => process.exit(1));
