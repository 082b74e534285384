import { AsyncLocalStorage } from 'node:async_hooks';
import type { Time } from '../options';

/** The one deadline of a request: `req.deadline`, and `currentDeadline()` from anywhere inside the request. */
export interface Deadline {
  /**
   * Aborts when the deadline passes or the client leaves, with the error as its reason: `ERR_UNBLOCK_TIMEOUT` or
   * `ERR_UNBLOCK_UPLOAD_TIMEOUT` for the one, `ERR_UNBLOCK_CLIENT_CLOSED` for the other. Hand it to whatever can stop:
   * `fetch(url, { signal })`, a database query, an offloaded call (those inside the request have it already).
   */
  readonly signal: AbortSignal;
  /** True once the deadline has passed with the response still owed. */
  readonly expired: boolean;
  /** Milliseconds left; 0 once expired, `Infinity` when there is no limit, it was cleared or the request is over. */
  remaining(): number;
  /**
   * Moves the deadline that a `timeout()` has set to `time` from now. Does nothing without one, and once it has passed
   * or the response is over.
   */
  extend(time: Time): void;
  /** Takes the limit off; the signal still aborts when the client leaves. */
  clear(): void;
}

/** What runs on behalf of a request, either its handlers or, after it failed, its error handlers. */
export interface RequestContext {
  readonly deadline: Deadline & {
    /** When it passes, on the clock of `performance.now()`. */
    readonly at: number;
    /** Hears whenever `at` is moved; returns what takes the listener off. */
    onMove(listener: () => void): () => void;
    /** Why the work was stopped. */
    readonly reason: unknown;
    /** That of the handlers. */
    readonly context: RequestContext;
  };
  /** There once the response is no longer theirs to write: reports what they still do, and how it failed. */
  late: ((method: string, error?: unknown) => void) | undefined;
}

export const contexts = new AsyncLocalStorage<RequestContext>();

/** The deadline of the request that the calling code runs for; `undefined` outside of one. */
export function currentDeadline(): Deadline | undefined {
  return contexts.getStore()?.deadline;
}
