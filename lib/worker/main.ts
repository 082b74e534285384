import workerpool from 'workerpool';
import { notSerializable } from '../errors';
import {
  MOST_TASKS,
  type Outcome,
  type Parcel,
  packThrown,
  type TaskDefinition,
  unpackThrown,
  unwrap,
  type WorkerMethods,
  wrap,
} from '../wire';
import { becomeWorker, currentTask, type TaskContext } from './current-task';
import { awaitInterrupts, interruptible, interruptsLanded, startKeeper, wasInterrupted } from './interruptible';
import { openLedger } from './ledger';
import { isSpoiled, load, type TaskFunction, watchLoading } from './tasks';

/** What a worker process runs. Its last arguments are its parent's process id and its ledger. */
const [parent, ledger] = process.argv.slice(-2) as [string, string];
const begun = openLedger(ledger);
const task = currentTask() ?? becomeWorker();
task.emit = (event) => {
  try {
    workerpool.workerEmit(event);
  } catch (cause) {
    throw notSerializable('A progress report', 'the task', cause);
  }
};
watchLoading();

interface Loaded {
  readonly definition: TaskDefinition;
  fn: TaskFunction | Promise<TaskFunction> | undefined;
}

const tasks = new Map<number, Loaded>();

const methods: WorkerMethods = {
  ready: () => true,
  run(call, id, definition, args, interrupts) {
    const loaded = find(id, definition);
    if (interruptsLanded() > interrupts) return { ...failed(undefined), notBegun: true };
    begun(call);
    const { name } = loaded.definition;
    try {
      const result = task.begin(call, (self) =>
        interruptible(() => {
          loaded.fn ??= load(loaded.definition);
          if (typeof loaded.fn === 'function') return loaded.fn.apply(self, unwrap(args) as unknown[]);
          return enterLater(loaded, loaded.fn, self, args);
        }),
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
  settled: awaitInterrupts,
};

function find(id: number, definition: TaskDefinition | undefined): Loaded {
  if (definition !== undefined && tasks.size === MOST_TASKS) tasks.clear();
  // The parent sends it with the first call.
  const loaded = tasks.get(id) ?? { definition: definition as TaskDefinition, fn: undefined };
  tasks.set(id, loaded);
  return loaded;
}

async function enterLater(
  loaded: Loaded,
  loading: Promise<TaskFunction>,
  self: TaskContext,
  args: Parcel,
): Promise<unknown> {
  loaded.fn = undefined; // One that fails to load may load the next time.
  const fn = await loading;
  loaded.fn = fn;
  return interruptible(() => fn.apply(self, unwrap(args) as unknown[]));
}

function succeeded(name: string, value: unknown): Outcome {
  try {
    return { ok: true, body: wrap(value), interrupts: interruptsLanded() };
  } catch (cause) {
    return failed(notSerializable('The result', name, cause));
  }
}

/** Packed once: it would be most of the time that taking a worker back takes. */
const interrupted = packThrown(new Error('The task was interrupted by a SIGINT'));

function failed(thrown: unknown): Outcome {
  const body = wasInterrupted(thrown) ? interrupted : packThrown(thrown);
  return { ok: false, body, interrupts: interruptsLanded(), spoiled: isSpoiled() };
}

function isThenable(value: unknown): value is PromiseLike<unknown> {
  return typeof (value as { then?: unknown } | null | undefined)?.then === 'function';
}

/** Node calls what makes `import()` work in a function's text experimental; the user never chose it. */
const { emitWarning } = process;
process.emitWarning = (warning: string | Error, ...rest: unknown[]) => {
  if (String(warning).includes('USE_MAIN_CONTEXT_DEFAULT_LOADER')) return;
  Reflect.apply(emitWarning, process, [warning, ...rest]);
};

/** workerpool takes every message for one of its own; what a task sends past it is ignored, but at `null` it throws. */
const send = process.send as (...args: unknown[]) => boolean;
process.send = (...args: unknown[]) => args[0] === null || Reflect.apply(send, process, args);

// What cannot be sent finds no parent any more.
process.on('error', () => process.exit(1));

void startKeeper(Number(parent)).then(() => workerpool.worker({ ...methods }));
