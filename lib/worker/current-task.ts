import type { WorkerEvent } from '../wire';

/** The `this` of an offloaded plain function. */
export interface TaskContext {
  /** Aborts when the caller gave the call up; a task that listens has 100 ms to end by itself. */
  readonly signal: AbortSignal;
  /** Reports progress to the call's `onProgress` listener. */
  readonly progress: (value: unknown) => void;
}

/** How a task, or what it hands its signal to, finds out about an abort. */
const LOOKS = ['aborted', 'addEventListener', 'throwIfAborted'] as const;

/** The task that this process runs, if it is a worker: what `express-unblock/worker` and a task's `this` are made of. */
export class CurrentTask {
  readonly #emit: (event: WorkerEvent) => void;
  readonly #followers: ((signal: AbortSignal) => void)[] = [];
  #call = 0;
  #controller: AbortController | undefined;

  constructor(emit: (event: WorkerEvent) => void) {
    this.#emit = emit;
  }

  get signal(): AbortSignal {
    this.#controller ??= this.#makeController();
    return this.#controller.signal;
  }

  progress = (value: unknown): void => {
    this.#emit({ progress: value });
  };

  /** Calls back at once, and at the start of each task, with that task's signal. */
  follow(follower: (signal: AbortSignal) => void): void {
    this.#followers.push(follower);
    follower(this.signal);
  }

  begin(call: number): void {
    this.#call = call;
    this.#controller = undefined;
    for (const follower of this.#followers) follower(this.signal);
  }

  abort(call: number, reason: unknown): void {
    if (call === this.#call) this.#controller?.abort(reason);
  }

  /** Importing a signal is not yet listening to it: the pool is told when the task first looks. */
  #makeController(): AbortController {
    const controller = new AbortController();
    const { signal } = controller;
    const heed = (name: (typeof LOOKS)[number]) => {
      for (const look of LOOKS) Reflect.deleteProperty(signal, look);
      this.#emit({ listens: true });
      return signal[name];
    };
    for (const name of LOOKS) Object.defineProperty(signal, name, { configurable: true, get: () => heed(name) });
    return controller;
  }
}

/** Found by any copy of this package that a task's module may load. */
const PLACE = Symbol.for('express-unblock.current-task');

export function currentTask(): CurrentTask | undefined {
  return (globalThis as { [PLACE]?: CurrentTask })[PLACE];
}

export function becomeWorker(task: CurrentTask): void {
  Object.assign(globalThis, { [PLACE]: task });
}
