import { callTimedOut } from '../errors';
import type { Parcel, TaskDefinition } from '../wire';
import { onAbort } from './abort';
import { type Admission, type AdmittedCall, isFeasible } from './admission';
import type { Waiting } from './queue';
import type { RunTimes } from './run-times';

/** Something to run in a worker, and how to take the worker back from a call of it that is given up. */
export interface Task {
  readonly id: number;
  readonly definition: TaskDefinition;
  readonly reclaim: 'interrupt' | 'kill';
  readonly times: RunTimes;
  /** With `size`: which of its calls are worth beginning. */
  readonly admission?: Admission | undefined;
}

/** How a call ended, as the pool counts it. */
export type Ending = 'completed' | 'failed' | 'timedOut' | 'cancelled' | 'refused' | 'died';

export interface CallLimits {
  /** Milliseconds from now. */
  readonly timeout: number;
  /** The deadline of the request it belongs to, on the clock of `performance.now()`; it may be moved. */
  readonly request: { readonly at: number; onMove?(listener: () => void): () => void } | undefined;
  readonly signals: readonly AbortSignal[];
  readonly onProgress: ((value: unknown) => void) | undefined;
  /** What the function's `size` says of the arguments. */
  readonly size?: number | undefined;
}

let lastId = 0;

/** One call from its making to its end. Result, error, abort or death: the first settles it, all later are ignored. */
export class Call implements Waiting, AdmittedCall {
  readonly id = ++lastId;
  readonly task: Task;
  /** Its place in the queue. The queue does not follow a deadline that is moved. */
  readonly deadlineAt: number;
  readonly madeAt = performance.now();
  readonly size: number;
  readonly expectedMs: number;
  verdict: AdmittedCall['verdict'];
  readonly result: Promise<unknown>;
  readonly onProgress: ((value: unknown) => void) | undefined;
  /** Dropped at the end, so that a call that was given up keeps no arguments alive. */
  args: Parcel | undefined;
  place = -1;
  /** How often it was handed to a worker that died before it began. */
  returns = 0;
  startedAt: number | undefined;
  endedAt: number | undefined;
  /** The process that runs it. */
  pid: number | undefined;
  ending: Ending | undefined;
  /** Gives back its place in the queue, or the worker, when it is given up. */
  onGivenUp: () => void = () => {};
  /** Why it was given up, for the task to hear. */
  reason: unknown;
  #resolve!: (value: unknown) => void;
  #reject!: (error: unknown) => void;
  readonly #onSettled: (call: Call) => void;
  readonly #timer: NodeJS.Timeout;
  readonly #limits: CallLimits;
  readonly #unlisten: (() => void)[];

  constructor(task: Task, args: Parcel, limits: CallLimits, onSettled: (call: Call) => void) {
    this.task = task;
    this.args = args;
    this.onProgress = limits.onProgress;
    this.#onSettled = onSettled;
    this.#limits = limits;
    this.deadlineAt = this.endsAt;
    this.size = limits.size ?? 0;
    this.expectedMs = task.times.predict(this.size, this.madeAt).median;
    this.result = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
    this.#timer = setTimeout(() => this.giveUp(callTimedOut(task.definition.name, limits.timeout)), limits.timeout);
    this.#unlisten = limits.signals.map((signal) => onAbort(signal, (reason) => this.giveUp(reason)));
  }

  /** Its time is over; the timer that ends it may not have fired yet. */
  get isDue(): boolean {
    return this.endsAt <= performance.now();
  }

  get isFeasible(): boolean {
    return isFeasible(this, this.task.times, this.task.admission, performance.now());
  }

  /** When it is given up; a request's deadline may be moved. */
  get endsAt(): number {
    return Math.min(this.timesOutAt, this.#limits.request?.at ?? Number.POSITIVE_INFINITY);
  }

  /** When its own time is over, which nothing moves. */
  get timesOutAt(): number {
    return this.madeAt + this.#limits.timeout;
  }

  /** Rejects first, then stops the work. */
  giveUp(reason: unknown, ending = endingBy(reason)): void {
    if (this.ending !== undefined) return;
    this.reason = reason;
    this.fail(ending, reason);
    this.onGivenUp();
  }

  succeed(value: unknown): void {
    if (this.#settle('completed')) this.#resolve(value);
  }

  fail(ending: Ending, error: unknown): void {
    if (this.#settle(ending)) this.#reject(error);
  }

  #settle(ending: Ending): boolean {
    if (this.ending !== undefined) return false;
    this.ending = ending;
    this.endedAt = performance.now();
    const { task, startedAt, endedAt } = this;
    if (startedAt !== undefined) {
      const isDone = ending === 'completed';
      task.times.add(this.size, endedAt - startedAt, isDone, endedAt);
      task.admission?.count(this, isDone);
    }
    this.args = undefined;
    clearTimeout(this.#timer);
    for (const unlisten of this.#unlisten) unlisten();
    this.#onSettled(this);
    return true;
  }
}

function endingBy(reason: unknown): Ending {
  const code = (reason as { code?: unknown } | null | undefined)?.code;
  return code === 'ERR_UNBLOCK_TIMEOUT' || code === 'ERR_UNBLOCK_UPLOAD_TIMEOUT' ? 'timedOut' : 'cancelled';
}
