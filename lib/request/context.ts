import { AsyncLocalStorage, type AsyncResource } from 'node:async_hooks';
import type { Time } from '../options';
import type { RequestDeadline } from './deadline';

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
   * Moves the deadline to `time` from now, also where a `timeout()` was skipped or the limit was cleared. Does nothing
   * where the request has passed no `timeout()`, once the deadline has passed, and once the response is over.
   */
  extend(time: Time): void;
  /**
   * The headers that tell the next service how much time is left, for its own `timeout(time, { upstream: true })`:
   * `fetch(url, { signal: req.deadline.signal, headers: req.deadline.headers() })`. They are
   * `x-envoy-expected-rq-timeout-ms` and `grpc-timeout`, and none where there is no limit.
   */
  headers(): Record<string, string>;
  /** Takes the limit off; the signal still aborts when the client leaves. */
  clear(): void;
}

/** On whose behalf code runs. Both hold the same `res`; the async context tells which of them is calling. */
export interface RequestContext {
  readonly role: 'handler' | 'error handler';
  readonly deadline: RequestDeadline;
}

export const contexts = new AsyncLocalStorage<RequestContext>();

/**
 * `contexts.run(context, next)` for each request: on Node 24 and later, `run` makes a second map to put back what was
 * there before, and that costs as much as the first. `before` was made there, and has it at hand.
 */
export function enter(context: RequestContext, next: () => void, before: AsyncResource): void {
  before.runInAsyncScope(goOn, undefined, context, next);
}

function goOn(context: RequestContext, next: () => void): void {
  contexts.enterWith(context);
  next();
}

/**
 * The context that the calling code runs in. What a request opened for the whole app (a pool, a timer, a socket) keeps
 * the request's context for life; from some seconds after the response it belongs to no request.
 */
export function currentContext(): RequestContext | undefined {
  const context = contexts.getStore();
  return context?.deadline.isPast ? undefined : context;
}

/** The deadline of the request that the calling code runs for; `undefined` outside of one. */
export function currentDeadline(): Deadline | undefined {
  return currentContext()?.deadline;
}

/** The deadline that a call made now must keep. Error handlers have none, since theirs has passed. */
export function deadlineOfCall(): RequestDeadline | undefined {
  const context = currentContext();
  if (context?.role !== 'handler') return undefined;
  const { deadline } = context;
  return deadline.reason === undefined || deadline.refusesCalls() ? deadline : undefined;
}
