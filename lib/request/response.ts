import { type IncomingMessage, ServerResponse, STATUS_CODES } from 'node:http';
import { Socket } from 'node:net';
import type { TLSSocket } from 'node:tls';
import type { HttpError } from 'http-errors';
import { background } from '../background';
import { contexts, type RequestContext } from './context';
import { deadlineOf, existingDeadline, PAST_MS, type RequestDeadline, type Routed, routerNextOf } from './deadline';
import { callLate, Failure, forgiveLateErrors, reportLate, warn } from './late';
import { endAlone, freezeRoute, type Next, type Reservation, reserve, showAsOver } from './patches';

/** How long the app's error handlers may stay silent before a bare response goes out in their place. */
const PATIENCE_MS = 1000;

/** Headers that describe the body that the handler did not send. All others (CORS, security, request id) stay. */
const OF_THE_BODY =
  /^(content-(?!security-policy).*|etag|last-modified|cache-control|expires|age|pragma|accept-ranges|location|refresh|transfer-encoding|trailer|(repr-)?digest|sourcemap|warning|(surrogate|cdn-cache)-control|x-sendfile|x-accel-.*)$/i;

/** An error of `http-errors`. */
export type Failing = Pick<HttpError, 'status'>;

/**
 * Gives an error that is found after `next` was called to the router that would have got it from the handler: the
 * innermost one that is at work now.
 *
 * @param outermost the `next` of the router that was at work when this middleware was called
 */
export function exitOf(
  req: Routed,
  res: ServerResponse,
  next: Next,
  outermost = routerNextOf(req),
): (error: Failing) => void {
  return (error) => {
    const innermost = routerNextOf(req);
    try {
      if (typeof innermost === 'function' && innermost !== outermost) innermost(error);
      else next(error);
    } catch (cause) {
      // Express itself throws if a request takes no new properties.
      warn(cause);
      answerBare(req, res, error.status);
    }
  };
}

/**
 * Takes the response from the handlers and gives it to the app's error handlers. From then on only the error handlers
 * can write, at once or later; calls of the handlers neither throw nor send a byte. If this `res` does not allow that, a
 * bare answer is sent instead.
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

/** Fails a request whose answer has begun. Only a cut connection tells the client that the response is not complete. */
export function cutOff(req: IncomingMessage, res: ServerResponse, error: Failing): void {
  const deadline = deadlineOf(req, res);
  fail(deadline, req, res, undefined);
  // To an HTTP/1.0 client, an orderly end of the connection means a complete response.
  if (req.httpVersionMinor === 0 && canBeReset(req.socket)) req.socket.resetAndDestroy();
  else res.destroy?.();
  deadline.abort(error);
}

/** Node throws where a connection is not TCP, such as a unix socket. TLS tells an orderly end by itself. */
function canBeReset(socket: Socket): boolean {
  return socket instanceof Socket && socket.remoteAddress !== undefined && !(socket as TLSSocket).encrypted;
}

/** From here on, the handlers are late. */
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

  // First drops what the handlers prepared, while writing is still allowed.
  dropBodyHeaders(res);
  Reflect.set(res, 'statusCode', error.status);
  Reflect.set(res, 'statusMessage', '');
  const isReserved = reserve(res, reservation);
  tellClosed(res, deadline);
  // A handler that reads `finished` in its `close` listener has to see false: the client has got nothing.
  if (!isReserved || !showAsOver(res, 'finished', reservation)) {
    answerBare(req, res, error.status);
    return;
  }
  freezeRoute(req, isLate);
  endAlone(req, isLate);
  res.on('pipe', (source) => {
    if (!deadline.mayAnswer()) endPipe(source, res, refuse);
  });
}

/**
 * Handlers and proxies take `close` on an unfinished response as the sign that nobody waits any more. It is emitted to
 * the listeners added since the current handler began; those of earlier middlewares are still to see the error's answer.
 */
function tellClosed(res: ServerResponse, deadline: RequestDeadline): void {
  // What was piped into the response and has sent nothing yet unpipes itself now.
  res.on('unpipe', endUnread);
  for (const listener of (res.rawListeners?.('close') ?? []).slice(deadline.closeListeners)) {
    res.removeListener('close', listener as () => void);
    callLate(deadline, () => listener.call(res));
  }
  res.removeListener?.('unpipe', endUnread);
}

/** Nobody else would close the file of a source that nobody reads. */
function endUnread(source: NodeJS.ReadableStream): void {
  process.nextTick(() => {
    const isRead = source.listenerCount('data') > 0 || source.listenerCount('readable') > 0;
    if (!isRead) (source as Partial<NodeJS.ReadableStream & { destroy(): void }>).destroy?.();
  });
}

/**
 * For a source that is piped into a response which takes nothing. It is unpiped one tick later: until it has begun to
 * flow, it must stay piped, so that `write()` can tell it to wait.
 */
function endPipe(source: NodeJS.ReadableStream, res: ServerResponse, refuse: (method: string) => unknown): void {
  process.nextTick(() => {
    refuse('write');
    source.unpipe(res);
    endUnread(source);
  });
}

function dropBodyHeaders(res: ServerResponse): void {
  for (const name of res.getHeaderNames?.() ?? []) if (OF_THE_BODY.test(name)) res.removeHeader(name);
}

/** Calls the methods of the prototype: a wrapper of this response may be what hangs. */
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
