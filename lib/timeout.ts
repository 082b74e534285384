import { channel } from 'node:diagnostics_channel';
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Request } from 'express';
import { asError, loadErrors, timedOut, uploadTimedOut } from './errors';
import { checkCall, checkOptions, parseChoice, parseFunction, parseTime, type Time } from './options';
import { abandonBody, awaitsContinue } from './request/connection';
import { contexts, type Deadline, enter } from './request/context';
import { deadlineOf, hasBody, isUpgrade, type RequestDeadline, type Routed, routerNextOf } from './request/deadline';
import { Expiry } from './request/expiry';
import type { Next } from './request/patches';
import { cutOff, exitOf, type Failing, takeOver } from './request/response';
import { readUpstreamTime } from './request/upstream';

declare global {
  namespace Express {
    interface Request {
      /** The request's deadline; there behind a `timeout()`, except for upgrades, and in the handlers that `offload` makes. */
      deadline: Deadline;
    }
  }
}

export interface TimeoutOptions {
  /**
   * What must have happened by the deadline. `'head'` (default): the response's head was sent; a stream such as
   * server-sent events or a download may then go on for as long as it likes. `'response'`: the whole response was
   * sent; one cut off half-way has its connection destroyed, so that nobody takes it for a whole one.
   */
  readonly until?: 'head' | 'response' | undefined;
  /** Requests for which this returns true get no limit; `req.deadline` still tells of their client. */
  readonly skip?: ((req: Request) => boolean) | undefined;
  /**
   * Whether what the request says counts, too: `x-envoy-expected-rq-timeout-ms` and `grpc-timeout` (the time that its
   * sender has), and `x-request-start` (since when it has waited in front of us, which is taken off). Never later than
   * `time`; what is nonsense, in the future or older than an hour is ignored. A request whose time is over already is
   * refused before its handlers run. Only clients that may shorten their own limits should get through to it with such
   * headers. Default: false.
   */
  readonly upstream?: boolean | undefined;
}

const passed = channel('express-unblock:timeout');

/**
 * Puts a deadline on producing the response, and stops the work when it passes: `req.deadline.signal` aborts, what was
 * offloaded inside the request ends, and the app's error handlers get an error to answer with. Whatever the handler
 * does to `res` from then on neither throws nor sends a byte.
 *
 * On one request the last `timeout()` to run sets the time, so that a route can raise as well as lower its app's.
 * A handler that blocks the event loop is not interrupted, since no timer can fire: see `offload`.
 *
 * @param time milliseconds, 1 to 2147483647; or a string such as `'5s'`; or a function of the request returning either
 * @throws TypeError `ERR_UNBLOCK_BAD_OPTION` where it is called with something else
 *
 * Errors handed to `next`: 504 `ERR_UNBLOCK_TIMEOUT`, or 408 `ERR_UNBLOCK_UPLOAD_TIMEOUT` when it was the request's
 * body that had not arrived (RFC 9110, sections 15.6.5 and 15.5.9).
 */
export function timeout(time: Time | ((req: Request) => Time), options: TimeoutOptions = {}) {
  loadErrors();
  checkCall('timeout', time, "timeout('5s')");
  checkOptions('timeout', options, ['until', 'skip', 'upstream']);
  const fixed = typeof time === 'function' ? undefined : parseTime('timeout', 'time', time);
  const limitOf = (req: Request) =>
    fixed ?? parseTime('timeout', 'the time returned', (time as (req: Request) => Time)(req));
  const { until: met = 'head' } = options;
  const until = parseChoice('timeout', 'until', met, ['head', 'response']);
  const skip = options.skip === undefined ? undefined : parseFunction('timeout', 'skip', options.skip);
  const upstream = parseChoice('timeout', 'upstream', options.upstream ?? false, [true, false]);

  return function timeoutMiddleware(req: IncomingMessage, res: ServerResponse, next: Next): void {
    if (isUpgrade(req)) {
      next();
      return;
    }
    let deadline: RequestDeadline;
    let limit: Limit;
    let hasBegun = true;
    try {
      deadline = deadlineOf(req, res);
      limit = new Limit(deadline, req, res, next, until);
      if (skip?.(req as Request)) deadline.offer(limit);
      else {
        const time = limitOf(req as Request);
        if (upstream) hasBegun = startWithin(deadline, req, limit, time);
        else deadline.start(limit, time);
      }
    } catch (error) {
      exitOf(req, res, next)(asError(error) as Failing);
      return;
    }
    if (!hasBegun) limit.pass(false);
    else if (contexts.getStore()?.deadline === deadline) next();
    else enter(deadline.handlers, next, limit);
  };
}

/** @returns false if the sender's time is over already */
function startWithin(deadline: RequestDeadline, req: IncomingMessage, expiry: Limit, time: number): boolean {
  deadline.upstream ??= readUpstreamTime(req.headers);
  const { limit, waited, readAt } = deadline.upstream;
  const left = Math.min(time, limit - (performance.now() - readAt)) - waited;
  if (left > 0) deadline.start(expiry, left, Math.min(time, limit));
  else deadline.limit = Math.min(time, limit);
  return left > 0;
}

/** The limit that one `timeout()` has set to a request. */
class Limit extends Expiry {
  readonly #outermost: Next | undefined;

  constructor(
    private readonly deadline: RequestDeadline,
    private readonly req: Routed,
    private readonly res: ServerResponse,
    private readonly next: Next,
    private readonly until: 'head' | 'response',
  ) {
    super();
    this.#outermost = routerNextOf(req);
  }

  override expire(): void {
    this.pass(waitsForClient(this.req));
  }

  /** @param stalled the client's upload was not there in time */
  pass(stalled: boolean): void {
    const { deadline, req, res, next } = this;
    if (res.headersSent && (this.until === 'head' || res.writableFinished)) {
      deadline.clear();
      return;
    }
    deadline.expired = true;
    const error = (stalled ? uploadTimedOut : timedOut)(deadline.limit);
    passed.publish({ req, res, error });
    if (res.headersSent) {
      cutOff(req, res, error);
      return;
    }
    abandonBody(req, res, stalled ? Number.POSITIVE_INFINITY : undefined);
    const exit = exitOf(req, res, next, this.#outermost);
    takeOver(req, res, error, () => exit(error));
  }
}

/** It is not the client's fault if nobody here reads its body, or if its body was not asked for yet. */
function waitsForClient(req: IncomingMessage): boolean {
  return (
    req.complete === false && hasBody(req) && !awaitsContinue(req) && req.readableLength < req.readableHighWaterMark
  );
}
