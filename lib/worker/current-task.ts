import { AsyncLocalStorage } from 'node:async_hooks';
import path from 'node:path';
import type { WorkerEvent } from '../wire';

/** The `this` of an offloaded plain function. */
export interface TaskContext {
  /** Aborts when the caller gave the call up; a task that listens has 100 ms to end by itself. */
  readonly signal: AbortSignal;
  /** Reports progress to the call's `onProgress` listener. */
  readonly progress: (value: unknown) => void;
}

/** The members of a signal by which code learns of an abort. */
const USES = ['aborted', 'reason', 'onabort', 'addEventListener', 'throwIfAborted'] as const;

type Emit = (event: WorkerEvent) => void;

/** One for each call: callbacks that a call leaves behind cannot report for the next call. */
class RunningTask implements TaskContext {
  readonly call: number;
  readonly #emit: Emit;
  #controller: AbortController | undefined;

  constructor(call: number, emit: Emit) {
    this.call = call;
    this.#emit = emit;
  }

  get signal(): AbortSignal {
    this.#controller ??= this.#makeController();
    return this.#controller.signal;
  }

  progress = (value: unknown): void => {
    this.#emit({ call: this.call, progress: value });
  };

  abort(reason: unknown): void {
    this.#controller?.abort(reason);
  }

  /** A task that has a signal may never look at it: the pool is told at its first use. */
  #makeController(): AbortController {
    const controller = new AbortController();
    const { signal } = controller;
    const listen = (): Record<string, unknown> => {
      for (const use of USES) Reflect.deleteProperty(signal, use);
      this.#emit({ call: this.call, listens: true });
      return signal as unknown as Record<string, unknown>;
    };
    for (const use of USES) {
      Object.defineProperty(signal, use, {
        configurable: true,
        get: () => listen()[use],
        set: (value) => {
          listen()[use] = value;
        },
      });
    }
    return controller;
  }
}

/** The task that this process runs, if it is a worker: what `express-unblock/worker` and a task's `this` are made of. */
export class CurrentTask implements TaskContext {
  /** Set by the worker's own script. */
  emit: Emit = () => {};
  readonly #followers: ((signal: AbortSignal) => void)[] = [];
  /** The call of the current async context, for the exported `progress`, which has no `this`. */
  #calls: AsyncLocalStorage<RunningTask> | undefined;
  #running = new RunningTask(0, this.emit);

  get signal(): AbortSignal {
    return this.#running.signal;
  }

  progress = (value: unknown): void => {
    const { progress } = this.#calls?.getStore() ?? this.#running;
    progress(value);
  };

  /** Calls back at once, and at the start of each task, with that task's signal. */
  follow(follower: (signal: AbortSignal) => void): void {
    this.#calls ??= new AsyncLocalStorage();
    this.#followers.push(follower);
    follower(this.signal);
  }

  begin<T>(call: number, run: (self: TaskContext) => T): T {
    const task = new RunningTask(call, this.emit);
    this.#running = task;
    for (const follower of this.#followers) follower(task.signal);
    return this.#calls === undefined ? run(task) : this.#calls.run(task, run, task);
  }

  abort(call: number, reason: unknown): void {
    if (call === this.#running.call) this.#running.abort(reason);
  }
}

/** Found by any copy of this package that a task's module may load. */
const PLACE = Symbol.for('express-unblock.current-task');

/** The script of the workers. A bundle may have no `__dirname`, and does not contain this file. */
export const SCRIPT = path.resolve(typeof __dirname === 'string' ? __dirname : '', '..', 'worker', 'main.js');

const { [PLACE]: existing } = globalThis as { [PLACE]?: CurrentTask };
// Files that are preloaded into a worker may ask before the worker's own script has run.
if (existing === undefined && process.argv[1] === SCRIPT) becomeWorker();

/** `undefined` where this process is no worker. */
export function currentTask(): CurrentTask | undefined {
  return (globalThis as { [PLACE]?: CurrentTask })[PLACE];
}

function becomeWorker(): void {
  Object.assign(globalThis, { [PLACE]: new CurrentTask() });
  // `AbortSignal.any()` reads signals past their properties, so that `USES` would not see it.
  const { any } = AbortSignal;
  AbortSignal.any = (signals) => {
    const all = [...signals];
    for (const signal of all) Reflect.get(signal, 'aborted');
    return any.call(AbortSignal, all);
  };
}
