import { type IncomingMessage, ServerResponse, STATUS_CODES } from 'node:http';
import type { TLSSocket } from 'node:tls';
import type { HttpError } from 'http-errors';
import { background } from '../background';
import { contexts, type RequestContext } from './context';
import { deadlineOf, existingDeadline, PAST_MS, type RequestDeadline } from './deadline';
import { callLate, Failure, forgiveLateErrors, reportLate, warn } from './late';
import { freezeRoute, type Next, type Reservation, reserve, showAsOver } from './patches';

/** How long the app's error handlers may stay silent before a bare response goes out in their place. */
const PATIENCE_MS = 1000;

/** Headers that tell of the body the handler never sent; all others (CORS, security, request id) stay. */
const OF_THE_BODY =
  /^(content-(?!security-policy).*|etag|last-modified|cache-control|expires|age|pragma|accept-ranges|location|refresh|transfer-encoding|trailer|(repr-)?digest|sourcemap|warning|(surrogate|cdn-cache)-control|x-sendfile|x-accel-.*)$/i;

/** An error of `http-errors`. */
export type Failing = Pick<HttpError, 'status'>;

export type Routed = IncomingMessage & { next?: unknown };

/**
 * Where an error found later than `next` was called leaves the routers. Had the handler called `next(error)`, the
 * innermost router that is at work now would have it first: Express keeps that router's own `next` on the request.
 *
 * @param outermost the one that was on the request when `next` was given
 */
export function exitOf(req: Routed, res: ServerResponse, next: Next, outermost = req.next): (error: Failing) => void {
  return (error) => {
    const { next: innermost } = req;
    try {
      if (typeof innermost === 'function' && innermost !== outermost) innermost(error);
      else next(error);
    } catch (cause) {
      // Express itself throws where others have made a request that takes no new properties.
      warn(cause);
      answerBare(req, res, error.status);
    }
  };
}

/**
 * Takes the response from handlers that may be at work, and gives it to the app's error handlers: until it is over,
 * only what they do, at once or later, goes through; what the handlers still do neither throws nor sends a byte.
 * Where that cannot be done with this `res`, a bare answer goes out instead.
 *
 * @param proceed calls the error handlers
 */
export function takeOver(req: IncomingMessage, res: ServerResponse, error: Failing, proceed: () => void): void {
  const deadline = deadlineOf(req, res);
  if (deadline.answering !== deadline.handlers) return;
  const errorHandlers: RequestContext = { role: 'error handler', deadline };
  fail(deadline, req, res, errorHandlers);
  try {
    prepare(req, res, error, errorHandlers);
  } catch (cause) {
    warn(cause);
    answerBare(req, res, error.status);
  }
  deadline.abort(error);
  if (deadline.answering === undefined) return;
  const fallback = setTimeout(answerBare, PATIENCE_MS, req, res, error.status);
  res.on('close', () => clearTimeout(fallback));
  contexts.run(errorHandlers, proceed);
}

/** Fails a request whose handlers have begun to answer: only a cut tells the client that the response is not whole. */
export function cutOff(req: IncomingMessage, res: ServerResponse, error: Failing): void {
  const deadline = deadlineOf(req, res);
  fail(deadline, req, res, undefined);
  // To a client of HTTP/1.0, a connection that ends in order is the end of a whole response.
  if (req.httpVersionMinor === 0 && !(req.socket as TLSSocket).encrypted) req.socket.resetAndDestroy?.();
  else res.destroy?.();
  deadline.abort(error);
}

/** From here on what the handlers do is late. */
function fail(
  deadline: RequestDeadline,
  req: IncomingMessage,
  res: ServerResponse,
  answering: RequestContext | undefined,
): void {
  deadline.answering = answering;
  deadline.failure = new Failure(req, res);
  forgiveLateErrors();
  res.on('close', () => forget(new WeakRef(deadline)));
}

function forget(past: WeakRef<RequestDeadline>): void {
  const end = () => {
    const deadline = past.deref();
    if (deadline !== undefined) deadline.failure = undefined;
  };
  background.runInAsyncScope(setTimeout, undefined, end, PAST_MS).unref();
}

function prepare(req: IncomingMessage, res: ServerResponse, error: Failing, context: RequestContext): void {
  const { deadline } = context;
  const isLate = () => contexts.getStore()?.deadline === deadline && !deadline.mayAnswer();
  const refuse = (method: string) => {
    reportLate(deadline, method);
    return error;
  };
  const reservation: Reservation = { context, allows: () => deadline.mayAnswer(), isLate, refuse };

  // What the handlers prepared goes first, while everything may still be written.
  dropBodyHeaders(res);
  Reflect.set(res, 'statusCode', error.status);
  Reflect.set(res, 'statusMessage', '');
  const isReserved = reserve(res, reservation);
  tellClosed(res, deadline);
  // A handler that was just told takes what had not ended by then for a client that left.
  if (!isReserved || !showAsOver(res, 'finished', reservation)) {
    answerBare(req, res, error.status);
    return;
  }
  freezeRoute(req, isLate);
  res.on('pipe', (source) => {
    if (!deadline.mayAnswer()) endPipe(source, res, refuse);
  });
}

/**
 * By `close` on an unfinished response, handlers and proxies know that nobody waits any more. It is told to what the
 * handler has registered since it began; the middlewares before it still have the error's answer to see.
 */
function tellClosed(res: ServerResponse, deadline: RequestDeadline): void {
  for (const listener of (res.rawListeners?.('close') ?? []).slice(deadline.closeListeners)) {
    res.removeListener('close', listener as () => void);
    callLate(deadline, () => listener.call(res));
  }
}

/**
 * Nobody would ever close a file that is piped into a response that takes nothing. Until the source has begun to flow,
 * it stays piped: `write()` tells it to wait, without which one that reads synchronously would never stop.
 */
function endPipe(source: NodeJS.ReadableStream, res: ServerResponse, refuse: (method: string) => unknown): void {
  process.nextTick(() => {
    refuse('write');
    source.unpipe(res);
    const isRead = source.listenerCount('data') > 0 || source.listenerCount('readable') > 0;
    if (!isRead) (source as Partial<NodeJS.ReadableStream & { destroy(): void }>).destroy?.();
  });
}

function dropBodyHeaders(res: ServerResponse): void {
  for (const name of res.getHeaderNames?.() ?? []) if (OF_THE_BODY.test(name)) res.removeHeader(name);
}

/** Straight from the prototype, past whatever wrapped this response and may be what hangs. */
function answerBare(req: IncomingMessage, res: ServerResponse, status: number): void {
  if (res.headersSent) return;
  const { writeHead, end } = res instanceof ServerResponse ? ServerResponse.prototype : res;
  const body = STATUS_CODES[status] ?? String(status);
  const headers = { 'Content-Type': 'text/plain; charset=utf-8', 'Content-Length': Buffer.byteLength(body) };
  const answer = () => {
    dropBodyHeaders(res);
    if (res.shouldKeepAlive === false) res.setHeader('Connection', 'close');
    writeHead?.call(res, status, headers);
    (end as (body: string) => void).call(res, body);
  };
  const deadline = existingDeadline(req);
  try {
    if (deadline === undefined) answer();
    else {
      deadline.answering = { role: 'error handler', deadline };
      contexts.run(deadline.answering, answer);
    }
  } catch (cause) {
    warn(cause);
    res.destroy?.();
  }
  if (deadline !== undefined) deadline.answering = undefined;
}
