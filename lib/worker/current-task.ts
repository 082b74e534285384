/** The `this` of an offloaded plain function. */
export interface TaskContext {
  /** Aborts when the caller gave the call up; a task that listens has 100 ms to end by itself. */
  readonly signal: AbortSignal;
  /** Reports progress to the call's `onProgress` listener. */
  readonly progress: (value: unknown) => void;
}

/** The task that this process runs, if it is a worker: what `express-unblock/worker` and a task's `this` are made of. */
export class CurrentTask {
  readonly #emit: (event: { progress: unknown } | { listens: true }) => void;
  readonly #followers: ((signal: AbortSignal) => void)[] = [];
  #call = 0;
  #controller: AbortController | undefined;

  constructor(emit: (event: { progress: unknown } | { listens: true }) => void) {
    this.#emit = emit;
  }

  /** Whether the task can hear of its abort. */
  get listens(): boolean {
    return this.#followers.length > 0;
  }

  get signal(): AbortSignal {
    if (this.#controller === undefined) {
      this.#controller = new AbortController();
      this.#emit({ listens: true });
    }
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
    this.#controller = this.listens ? new AbortController() : undefined;
    for (const follower of this.#followers) follower(this.signal);
  }

  abort(call: number, reason: unknown): void {
    if (call === this.#call) this.#controller?.abort(reason);
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
