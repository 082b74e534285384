import { overloaded, tooSlow } from '../errors';
import { RunTimes } from './run-times';

/** The share of its limit that a call may have to wait. */
const PATIENCE = 0.95;
/**
 * How much less a call may wait that runs longer than its function mostly does: the ratio of the two, to this power. In
 * its time, several shorter ones are done. At 0 it takes their place, at 1 it hardly ever runs while others do.
 */
const MODESTY = 0.25;
/** While a worker is idle, a call refused for its size is run all the same once in so many times its limit: a check. */
const CHECK_EVERY = 50;
/** A call that waited for less found an idle worker. */
const AT_ONCE_MS = 1;

/** Why a call is refused: for its size, for the calls before it, or when its turn comes and it has waited in vain. */
export type Reason = 'size' | 'backlog' | 'wait';

/** A call as admission and those behind it see it. All times are milliseconds on one clock. */
export interface AdmittedCall {
  /** 0 for functions without `size`. */
  readonly size: number;
  readonly madeAt: number;
  readonly startedAt: number | undefined;
  /** Its place in the queue. */
  readonly deadlineAt: number;
  /** When it will be given up; differs from `deadlineAt` where the deadline was moved. */
  readonly endsAt: number;
  /** The median run time of its size when it was made. */
  readonly expectedMs: number;
  /** Why it is refused, or would be; `check` where it is refused for its size and run all the same. */
  verdict: Reason | 'check' | undefined;
}

/** How calls of a function with a `size` are judged, and how often that was right. */
export interface AdmissionStats {
  readonly name: string;
  /** Runs so far. */
  readonly runs: number;
  /** 0 to 1; below 0.5 nothing is refused. It rises with the runs, fades with time, and is 0 where size tells nothing. */
  readonly certainty: number;
  /** The power of the size that the time grows by: 1 in proportion, 2 with the square. */
  readonly exponent: number;
  /** The largest size that 99 of 100 runs have done within the function's `timeout`; `undefined` while not known. */
  readonly manages: number | undefined;
  /** Calls refused for their size, for the backlog, and when their turn came too late. */
  readonly refused: Readonly<Record<Reason, number>>;
  /** Calls refused for their size that were run all the same, and those of them that were done in time. */
  readonly checks: { readonly calls: number; readonly inTime: number };
  /** With `admission: 'observe'`: calls that would have been refused, and those of them that were done in time. */
  readonly wouldRefuse: { readonly calls: number; readonly inTime: number };
}

/** Decides which calls of one function are worth beginning. */
export class Admission {
  readonly times = new RunTimes();
  readonly isEnforced: boolean;
  readonly #name: string;
  readonly #timeout: number;
  #runs = 0;
  readonly #refused = { size: 0, backlog: 0, wait: 0 };
  readonly #checks = { calls: 0, inTime: 0 };
  readonly #wouldRefuse = { calls: 0, inTime: 0 };
  /** When the last check was made; at first, when the first call was. */
  #checkedAt: number | undefined;

  constructor(name: string, mode: 'enforce' | 'observe', timeout: number) {
    this.#name = name;
    this.isEnforced = mode === 'enforce';
    this.#timeout = timeout;
  }

  /**
   * The error of a call that should not begin to wait.
   *
   * @param startsIn for how long the calls before it will keep all workers busy; 0 while a worker is idle
   */
  refusal(call: AdmittedCall, startsIn: number, now: number): Error | undefined {
    this.#checkedAt ??= now;
    const limit = call.endsAt - now;
    const { isSure, median, least } = this.times.predict(call.size, now);
    if (least > limit) {
      return this.#isToBeChecked(call, startsIn, now) ? undefined : this.#refuse(call, 'size', startsIn, now);
    }
    if (!isSure || startsIn <= 0) return undefined;
    const modesty = Math.min(1, this.times.typical / median) ** MODESTY;
    const mayWait = Math.min(PATIENCE * limit, (limit - median) * modesty);
    return startsIn <= mayWait ? undefined : this.#refuse(call, 'backlog', startsIn, now);
  }

  /** The same when its turn has come. */
  refusalAtTurn(call: AdmittedCall, startsIn: number, now: number): Error | undefined {
    return this.hasWaitedInVain(call, now) ? this.#refuse(call, 'wait', startsIn, now) : undefined;
  }

  /** No worker was idle when it was made, and now most runs take longer than what is left. */
  hasWaitedInVain(call: AdmittedCall, now: number): boolean {
    if (call.verdict !== undefined || now - call.madeAt < AT_ONCE_MS) return false;
    const { isSure, median } = this.times.predict(call.size, now);
    return isSure && median > call.endsAt - now;
  }

  /** Its run has ended, by itself or not. */
  count({ verdict }: AdmittedCall, isDone: boolean): void {
    this.#runs++;
    const isCheck = verdict === 'check';
    if (isDone && verdict !== undefined) (isCheck ? this.#checks : this.#wouldRefuse).inTime++;
    // The refusals were wrong: the next one is checked, too.
    if (isDone && isCheck) this.#checkedAt = Number.NEGATIVE_INFINITY;
  }

  stats(): AdmissionStats {
    const now = performance.now();
    return {
      name: this.#name,
      runs: this.#runs,
      certainty: this.times.certainty(now),
      exponent: this.times.exponent,
      manages: this.times.manages(this.#timeout, now),
      refused: { ...this.#refused },
      checks: { ...this.#checks },
      wouldRefuse: { ...this.#wouldRefuse },
    };
  }

  #isToBeChecked(call: AdmittedCall, startsIn: number, now: number): boolean {
    const isDue = now - (this.#checkedAt ?? now) >= CHECK_EVERY * (call.endsAt - now);
    if (!this.isEnforced || startsIn > 0 || !isDue) return false;
    this.#checkedAt = now;
    this.#checks.calls++;
    call.verdict = 'check';
    return true;
  }

  #refuse(call: AdmittedCall, reason: Reason, startsIn: number, now: number): Error | undefined {
    call.verdict = reason;
    if (!this.isEnforced) {
      this.#wouldRefuse.calls++;
      return undefined;
    }
    this.#refused[reason]++;
    if (reason !== 'size') return overloaded(Math.max(1, Math.ceil(startsIn / 1000)));
    const limit = Math.round(call.endsAt - now);
    return tooSlow({ limit, size: call.size, manages: this.times.manages(limit, now) });
  }
}

/** Enough time is left for it, as far as is known; or so little that it will be refused at its turn. */
export function isFeasible(
  call: AdmittedCall,
  times: RunTimes,
  admission: Admission | undefined,
  now: number,
): boolean {
  // A call that has waited for less than half of its time counts as feasible, whatever its function did before.
  const half = (call.deadlineAt - call.madeAt) / 2;
  const size = admission?.isEnforced ? call.size : undefined;
  if (call.endsAt - now >= Math.min(times.headroom(size, now), half)) return true;
  return size !== undefined && admission?.hasWaitedInVain(call, now) === true;
}

/**
 * For how long the running calls, and the waiting ones whose deadlines are earlier, will keep all workers busy; without
 * those that would have been refused.
 */
export function backlog(calls: Iterable<AdmittedCall>, deadlineAt: number, workers: number, now: number): number {
  let sum = 0;
  for (const { expectedMs, startedAt, deadlineAt: due, verdict } of calls) {
    if (startedAt !== undefined) {
      // A run that is longer than expected is assumed to go on for a quarter of its time so far.
      const elapsed = now - startedAt;
      sum += Math.max(0, Math.min(due - now, Math.max(expectedMs - elapsed, elapsed / 4)));
    } else if (due <= deadlineAt && verdict === undefined) sum += Math.max(0, Math.min(expectedMs, due - now));
  }
  return sum / workers;
}
