import { overloaded, tooSlow } from '../errors';
import { RunTimes } from './run-times';

/** The share of its limit that a call may have to wait. A smaller one serves all sizes more alike, but fewer calls. */
const PATIENCE = 0.95;
/** What is refused for its size is run all the same where a worker is idle, once in so many times its limit. */
const CHECK_EVERY = 50;
/** Less than this is no waiting: a worker was idle. */
const AT_ONCE_MS = 1;

/** Why a call is refused: for its size, for the calls before it, or when its turn comes and it has waited in vain. */
export type Reason = 'size' | 'backlog' | 'wait';

/** A call of a function with a size. All times are milliseconds on one clock. */
export interface SizedCall {
  readonly size: number;
  readonly madeAt: number;
  /** When it will be given up. It may be moved. */
  readonly endsAt: number;
  /** Why it is, or only would be, refused; `check` where it is refused for its size and run all the same. */
  verdict: Reason | 'check' | undefined;
}

/** How the calls of a function with a size are judged, and how often that was right. */
export interface AdmissionStats {
  /** Runs it has learnt from. */
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
  #runs = 0;
  readonly #refused = { size: 0, backlog: 0, wait: 0 };
  readonly #checks = { calls: 0, inTime: 0 };
  readonly #wouldRefuse = { calls: 0, inTime: 0 };
  #checkedAt = Number.NEGATIVE_INFINITY;

  constructor(mode: 'enforce' | 'observe') {
    this.isEnforced = mode === 'enforce';
  }

  /**
   * Before it waits: the error to refuse it with, if any.
   *
   * @param startsIn for how long the calls before it will keep all workers busy; 0 while a worker is idle
   */
  refusal(call: SizedCall, startsIn: number, now: number): Error | undefined {
    const limit = call.endsAt - now;
    const { isSure, median, least } = this.times.predict(call.size, now);
    if (least > limit) {
      if (this.#isToBeChecked(startsIn, limit, now)) call.verdict = 'check';
      else return this.#refuse(call, 'size', startsIn, now);
    } else if (isSure && startsIn > 0 && startsIn + Math.max(median, (1 - PATIENCE) * limit) > limit) {
      return this.#refuse(call, 'backlog', startsIn, now);
    }
    return undefined;
  }

  /** The same when its turn has come. */
  refusalAtTurn(call: SizedCall, startsIn: number, now: number): Error | undefined {
    return this.hasWaitedInVain(call, now) ? this.#refuse(call, 'wait', startsIn, now) : undefined;
  }

  /** Most runs take longer than what is left of its time, and a worker was not idle when it was made. */
  hasWaitedInVain(call: SizedCall, now: number): boolean {
    if (call.verdict !== undefined || now - call.madeAt < AT_ONCE_MS) return false;
    const { isSure, median } = this.times.predict(call.size, now);
    return isSure && median > call.endsAt - now;
  }

  /** Enough time is left for it, or so little that it is refused when its turn comes. */
  isFeasible(call: SizedCall, now: number): boolean {
    const half = (call.endsAt - call.madeAt) / 2;
    const left = call.endsAt - now;
    return left >= Math.min(this.times.headroom(call.size, now), half) || this.hasWaitedInVain(call, now);
  }

  /** A run of `ms` has ended, by itself or not. */
  add(call: SizedCall, ms: number, isDone: boolean, now: number): void {
    this.#runs++;
    this.times.add(call.size, ms, isDone, now);
    if (call.verdict === undefined) return;
    const isCheck = call.verdict === 'check';
    (isCheck ? this.#checks : this.#wouldRefuse).inTime += Number(isDone);
    if (isCheck && isDone) this.#checkedAt = Number.NEGATIVE_INFINITY; // Wrongly refused: the next is checked, too.
  }

  stats(timeout: number, now: number): AdmissionStats {
    return {
      runs: this.#runs,
      certainty: this.times.certainty(now),
      exponent: this.times.exponent,
      manages: this.times.manages(timeout, now),
      refused: { ...this.#refused },
      checks: { ...this.#checks },
      wouldRefuse: { ...this.#wouldRefuse },
    };
  }

  #isToBeChecked(startsIn: number, limit: number, now: number): boolean {
    if (!this.isEnforced || startsIn > 0 || now - this.#checkedAt < CHECK_EVERY * limit) return false;
    this.#checkedAt = now;
    this.#checks.calls++;
    return true;
  }

  #refuse(call: SizedCall, reason: Reason, startsIn: number, now: number): Error | undefined {
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

/** A call as those behind it see it. */
export interface CallAhead {
  /** The median run time of its size. */
  readonly expectedMs: number;
  readonly deadlineAt: number;
  readonly startedAt: number | undefined;
}

/** For how long the running calls, and the waiting ones whose deadlines are earlier, will keep all workers busy. */
export function backlog(calls: Iterable<CallAhead>, deadlineAt: number, workers: number, now: number): number {
  let sum = 0;
  for (const { expectedMs, startedAt, deadlineAt: due } of calls) {
    if (startedAt !== undefined) {
      // What runs longer than expected will go on for a while.
      const elapsed = now - startedAt;
      sum += Math.max(0, Math.min(due - now, Math.max(expectedMs - elapsed, elapsed / 4)));
    } else if (due <= deadlineAt) sum += Math.min(expectedMs, due - now);
  }
  return sum / workers;
}
