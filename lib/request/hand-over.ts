import { channel } from 'node:diagnostics_channel';
import { type IncomingMessage, ServerResponse, STATUS_CODES } from 'node:http';
import type { TLSSocket } from 'node:tls';
import type { HttpError } from 'http-errors';
import { contexts, type RequestContext } from './context';
import { deadlineOf } from './deadline';
import { isLast } from './last';
import { forgiveLateErrors } from './late-errors';

/** How long the app's error handlers may stay silent before a bare response goes out in their place. */
const PATIENCE = 1000;

/** What writes to a response, Express's own methods first, so that a late call is reported by the name it was made. */
const WRITERS = [
  ...['json', 'jsonp', 'send', 'sendFile', 'sendfile', 'sendStatus', 'download', 'redirect', 'render'],
  ...[
    'writeHead',
    'writeHeader',
    'write',
    'end',
    'setHeader',
    'setHeaders',
    'appendHeader',
    'removeHeader',
    'flushHeaders',
  ],
  ...['addTrailers', 'writeContinue', 'writeProcessing', 'writeEarlyHints', 'cork', 'uncork', 'destroy'],
] as const;

/** Headers that tell of the body the handler never sent; all others (CORS, security, request id) stay. */
const OF_THE_BODY =
  /^(content-(?!security-policy).*|etag|last-modified|cache-control|expires|age|pragma|accept-ranges|location|refresh|transfer-encoding|trailer|(repr-)?digest|sourcemap|warning|(surrogate|cdn-cache)-control|x-sendfile|x-accel-.*)$/i;

/** What routers, and Express by what they say, tell of where a request goes. */
const OF_THE_ROUTE = ['url', 'baseUrl', 'params', 'query', 'path'];

const late = channel('express-unblock:late');

/**
 * Fails a request whose handlers may be at work: the response is theirs no more. Until it is over, only what the app's
 * error handlers do, at once or later, goes through; what the handlers still do neither throws nor sends a byte.
 * Which of the two is calling is told by the async context, since both hold the same `res`.
 */
export function handOver(
  req: IncomingMessage,
  res: ServerResponse,
  error: HttpError,
  next: (error: unknown) => void,
): void {
  const deadline = deadlineOf(req, res);
  if (deadline.context.late) return;
  const report = refuseHandlers(req, res);
  const answering: RequestContext = { deadline, late: undefined };

  // What the handlers prepared goes first, while everything may still be written.
  dropBodyHeaders(res);
  res.statusCode = error.status;
  res.statusMessage = '';

  reserveResponse(res, answering, error, report);
  reserveRequest(req, deadline.context, answering);
  deadline.abort(error);
  const fallback = setTimeout(() => {
    if (res.headersSent) return;
    contexts.run(answering, () => answerBare(res, error.status));
    answering.late = report;
  }, PATIENCE);
  res.on('close', () => clearTimeout(fallback));
  contexts.run(answering, next, error);
}

/** Fails a request whose handlers have begun to answer: only a cut tells the client that the response is not whole. */
export function cutOff(req: IncomingMessage, res: ServerResponse, error: HttpError): void {
  refuseHandlers(req, res);
  // To a client of HTTP/1.0, a connection that ends in order is the end of a whole response.
  if (req.httpVersionMinor === 0 && !(req.socket as TLSSocket).encrypted) req.socket.resetAndDestroy();
  else res.destroy();
  deadlineOf(req, res).abort(error);
}

type Report = NonNullable<RequestContext['late']>;

/** From here on what the handlers do is late, and reported once. */
function refuseHandlers(req: IncomingMessage, res: ServerResponse): Report {
  const since = performance.now();
  let reported = false;
  const report: Report = (method, error) => {
    if (reported) return;
    reported = true;
    if (late.hasSubscribers) late.publish({ req, res, method, lateBy: performance.now() - since, error });
  };
  deadlineOf(req, res).context.late = report;
  forgiveLateErrors();
  return report;
}

function isOwner(owner: RequestContext): boolean {
  return contexts.getStore() === owner && !owner.late;
}

/** Lets only calls made in the `owner` context through to `res`. */
function reserveResponse(res: ServerResponse, owner: RequestContext, error: HttpError, report: Report): void {
  const allowed = () => isOwner(owner);
  const methods = res as unknown as Record<string, (...args: unknown[]) => unknown>;

  for (const name of WRITERS) {
    const write = methods[name];
    if (write === undefined) continue;
    methods[name] = function (...args) {
      if (allowed()) return write.apply(this, args);
      report(name);
      const callback = args.at(-1);
      if (typeof callback === 'function') process.nextTick(callback as () => void, error);
      // For a stream that pipes, false means: wait. It is released when the response closes.
      return name === 'write' ? false : this;
    };
  }
  for (const name of ['statusCode', 'statusMessage']) guard(res, name, { writable: allowed });

  // Node's own methods, kept from before and called past the ones above, do nothing on a response that is over. To
  // whoever else looks, it is so only until the owner has begun: Node asks for it when the socket has drained.
  const isOver = () => {
    const caller = contexts.getStore();
    return !allowed() && (!res.headersSent || (caller?.deadline === owner.deadline && caller.late !== undefined));
  };
  for (const name of ['finished', 'destroyed']) guard(res, name, { read: (value) => value || isOver() });
  // Behind an earlier request on its connection, a response is given its socket later, and by Node.
  const { assignSocket } = res;
  res.assignSocket = (socket) => contexts.run(owner, () => assignSocket.call(res, socket));

  // 'drain' comes in the socket's context: a stream that the owner pipes goes on in the owner's.
  for (const name of ['on', 'addListener', 'prependListener']) {
    const listen = methods[name] as (event: unknown, listener: unknown) => unknown;
    methods[name] = function (event, listener) {
      if (!allowed() || typeof listener !== 'function') return listen.call(this, event, listener);
      return listen.call(this, event, inContext(owner, res, event as string, listener as Listener));
    };
  }
}

/** Keeps what the routers of Express do for late `handlers` from what they still have to do for the `owner`. */
function reserveRequest(req: IncomingMessage, handlers: RequestContext, owner: RequestContext): void {
  const isLate = () => contexts.getStore() === handlers;
  const writable = () => !isLate();
  // Handlers that go on see the request as it was, whatever the routers make of it for the owner.
  const seen = req as unknown as Record<string, unknown>;
  for (const name of OF_THE_ROUTE) {
    const before = seen[name];
    const own = Object.hasOwn(req, name);
    const now = (value: unknown) => (own ? value : Reflect.get(Object.getPrototypeOf(req), name, req));
    guard(seen, name, { read: (value) => (isLate() ? before : now(value)), writable });
  }
  // A late `next()` would use up the error handlers, which it shares with the owner. A router that finds no path to
  // match goes straight to its end; it looks for one where it has parsed this very URL before.
  const parsed = Object.create(Object.getPrototypeOf(seen._parsedUrl ?? {}));
  const nowhere = Object.assign(parsed, { _raw: req.url, pathname: null });
  guard(seen, '_parsedUrl', { read: (value) => (isLate() ? nowhere : value), writable });
  // A router puts back its caller's when it is at its end: of a late `next()`, that may be all there is to see.
  guard(req as IncomingMessage & { next?: unknown }, 'next', {
    writable: () => {
      if (isLate()) handlers.late?.('next');
      return !isLate();
    },
  });

  // A late error ends in Express's final handler, which destroys the connection when the head has been sent.
  const destroy = () => handlers.late?.('destroy');
  const spared = new Proxy(req.socket, {
    get: (socket, name) => (name === 'destroy' ? destroy : Reflect.get(socket, name)),
  });
  guard(req, 'socket', { read: (socket) => (isOwner(owner) ? socket : spared) });
}

/** Makes what is read from a property, and whether it is written, depend on who does it. */
function guard<T extends object>(
  object: T,
  name: string,
  { read = (value) => value, writable = () => true }: { read?: (value: any) => unknown; writable?: () => boolean },
): void {
  let value = object[name as keyof T];
  Object.defineProperty(object, name, {
    configurable: true,
    enumerable: true,
    get: () => read(value),
    set: (to) => {
      if (writable()) value = to;
    },
  });
}

type Listener = ((...args: unknown[]) => unknown) & { listener?: Listener };

function inContext(context: RequestContext, res: ServerResponse, event: string, listener: Listener): Listener {
  const bound: Listener = (...args) => {
    // The wrapper that `once` makes cannot find itself behind this one.
    if (listener.listener !== undefined) res.removeListener(event, bound);
    return contexts.run(context, () => listener.apply(res, args));
  };
  bound.listener = listener.listener ?? listener;
  return bound;
}

function dropBodyHeaders(res: ServerResponse): void {
  for (const name of res.getHeaderNames()) if (OF_THE_BODY.test(name)) res.removeHeader(name);
}

/** Straight from the prototype, past whatever wrapped this response and may be what hangs. */
function answerBare(res: ServerResponse, status: number): void {
  const body = STATUS_CODES[status] ?? String(status);
  dropBodyHeaders(res);
  if (isLast(res)) res.setHeader('Connection', 'close');
  const { writeHead, end } = ServerResponse.prototype;
  writeHead.call(res, status, {
    'Content-Type': 'text/plain; charset=utf-8',
    'Content-Length': Buffer.byteLength(body),
  });
  (end as (body: string) => void).call(res, body);
}
