import { type IncomingMessage, type Server, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import { isPromise } from 'node:util/types';
import { badOption } from '../errors';
import { contexts, type RequestContext } from './context';

/*
 * All that is patched on objects that are not ours. A request is patched only if its body is watched, it asks for a
 * `100 Continue`, or it has failed. An object that does not allow it stays as it is.
 *
 * | what                                | why no public way does it          | when Node or Express changes it              |
 * |-------------------------------------|------------------------------------|----------------------------------------------|
 * | req.push                            | a `data` listener starts the flow  | bodies pass uncounted: limit-input tests     |
 * | req._destroy, complete, aborted     | destroy() closes the connection    | the client loses the answer to its upload    |
 * | req._read                           | nothing tells of the first read    | the `100` is never sent: clients wait        |
 * | req.url, baseUrl, params            | routers write them on the way out  | a late handler sees others' paths            |
 * | req.next                            | res.render() and sendFile() use it | their late errors use up the error handlers  |
 * | res.write, end, json, …             | handlers and error handlers share  | a late handler's bytes are in the answer     |
 * |   statusCode, finished, destroyed   |   one `res`                        |                                              |
 * | res.assignSocket                    | it is called without a context     | a long error page stops behind another answer|
 * | res.writeHead, write, flushHeaders  | headers can be set at any time     | a `Connection` header of the app keeps alive |
 * | socket.destroySoon                  | Node resets with input unread      | the client loses the answer to its upload    |
 * | server.emit                         | a listener cannot stop an event    | requests inside abandoned bodies are served  |
 * | process.emit (read access)          | a listener cannot stop an event    | a late error ends the process                |
 * | Layer.prototype.handleRequest, …    | Express shares `next`              | a late next() begins the next handler        |
 */

type Method = (...args: any[]) => unknown;
export type Next = (error?: unknown) => void;

function put(object: object, name: string, value: unknown): boolean {
  return Reflect.defineProperty(object, name, { configurable: true, enumerable: true, writable: true, value });
}

/**
 * Runs `around` in place of a method, if there is one; `call` is the method itself.
 *
 * @returns false where the object does not allow it
 */
function wrap(object: object, name: string, around: (call: Method, args: any[], self: any) => unknown): boolean {
  const method = (object as Record<string, unknown>)[name];
  if (typeof method !== 'function') return true;
  return put(object, name, function wrapped(this: unknown, ...args: unknown[]) {
    return around((...passed) => method.apply(this, passed), args, this);
  });
}

/** Makes reading and writing a property depend on the calling code. */
function guard(object: object, name: string, read: (value: unknown) => unknown, mayWrite = () => true): boolean {
  let value = (object as Record<string, unknown>)[name];
  const get = () => read(value);
  const set = (to: unknown) => {
    if (mayWrite()) value = to;
  };
  return Reflect.defineProperty(object, name, { configurable: true, enumerable: true, get, set });
}

// The request

/**
 * Runs the readers of a body in the context of the request, since its bytes arrive in the context of the connection.
 *
 * @param look sees each chunk first, `null` for the end; true when it has taken it
 * @throws TypeError `ERR_UNBLOCK_BAD_OPTION` where that is impossible
 */
export function watchChunks(
  req: IncomingMessage,
  context: RequestContext,
  look: (chunk: Uint8Array | null) => boolean = () => false,
): void {
  const isPossible = wrap(
    req,
    'push',
    (push, [chunk, ...rest]) => look(chunk) || contexts.run(context, push, chunk, ...rest),
  );
  // A request made by a test may be frozen, or not a stream.
  if (!isPossible || typeof req.push !== 'function')
    throw badOption('limitInput: the body of this req cannot be counted');
}

/** Ends the stream for its readers only: the `_destroy` of IncomingMessage would destroy the connection. */
export function endForReaders(req: IncomingMessage, take: (chunk: unknown) => boolean): void {
  put(req, 'push', take);
  put(req, '_destroy', (error: unknown, callback: Next) => callback(error));
  req.complete = true;
}

/** A late `req.destroy()` ends the stream alone: the connection is still to carry the answer. */
export function endAlone(req: IncomingMessage, isLate: () => boolean): void {
  wrap(req, '_destroy', (destroy, args) => (isLate() ? args[1](args[0]) : destroy(...args)));
}

/** @param listener called each time that more of a body is asked for */
export function onRead(req: IncomingMessage, listener: () => void): void {
  wrap(req, '_read', (read, args) => {
    listener();
    return read(...args);
  });
}

/** Late handlers see the request as it was, while the routers change it for the error handlers. */
export function freezeRoute(req: IncomingMessage, isLate: () => boolean): void {
  const seen = req as unknown as Record<string, unknown>;
  for (const name of ['url', 'baseUrl', 'params']) {
    const before = seen[name];
    const now = (value: unknown) => (isLate() ? before : value);
    if (name in req) guard(req, name, now, () => !isLate());
  }
}

// The response

/** All methods that write to a response; Express's first, so that a late call is reported by the name that was called. */
const WRITERS = [
  ...['json', 'jsonp', 'send', 'sendFile', 'sendfile', 'sendStatus', 'download', 'redirect', 'render'],
  ...['writeHead', 'writeHeader', 'write', 'end', 'setHeader', 'setHeaders', 'appendHeader', 'removeHeader'],
  ...[
    'flushHeaders',
    'addTrailers',
    'writeContinue',
    'writeProcessing',
    'writeEarlyHints',
    'cork',
    'uncork',
    'destroy',
  ],
];

/** Without these a late handler's bytes would be sent. */
const ESSENTIAL = ['writeHead', 'write', 'end'];

export interface Reservation {
  readonly context: RequestContext;
  /** The calling code may write. */
  readonly allows: () => boolean;
  /** The calling code is that of the handlers, which see a response that is over. */
  readonly isLate: () => boolean;
  /** Told of a refused call; the error that it returns goes to the callback of the call. */
  readonly refuse: (method: string) => unknown;
}

/** Lets only certain calls through to `res`. @returns false if that is impossible */
export function reserve(res: ServerResponse, reservation: Reservation): boolean {
  const { allows, refuse, context } = reservation;
  const isReserved = WRITERS.map((name) => {
    const isWrapped = wrap(res, name, (write, args, self) => {
      if (allows()) return write(...args);
      const error = refuse(name);
      const callback = args.at(-1);
      if (typeof callback === 'function') process.nextTick(callback, error);
      // A piping stream waits after false.
      return name === 'write' ? false : self;
    });
    return isWrapped || !ESSENTIAL.includes(name);
  });
  for (const name of ['statusCode', 'statusMessage']) guard(res, name, (value) => value, allows);
  // A response queued behind another on its connection gets its socket, and is flushed, later. Each `drain` comes in the
  // context of the write before it.
  if (!res.socket) wrap(res, 'assignSocket', (assign, args) => contexts.run(context, assign, ...args));
  // `pipeline()` reads `closed`, then `destroyed`. It refuses a destroyed stream, and from Node 24 on leaves the source open.
  let isPipeline = false;
  const get = () => {
    isPipeline = reservation.isLate();
    return !isPipeline && Reflect.get(Object.getPrototypeOf(res), 'closed', res);
  };
  Reflect.defineProperty(res, 'closed', { configurable: true, enumerable: true, get });
  const isOpen = () => {
    const wasPipeline = isPipeline;
    isPipeline = false;
    return wasPipeline;
  };
  return !isReserved.includes(false) && showAsOver(res, 'destroyed', reservation, isOpen);
}

/**
 * Shows a response as over to the late handlers: Node's own methods, which they may have kept, then do nothing. Others
 * see it as over only until the error handlers have begun, since Node reads it when the socket has drained.
 */
export function showAsOver(
  res: ServerResponse,
  name: string,
  { allows, isLate }: Reservation,
  isOpen = () => false,
): boolean {
  const isOver = () => !allows() && (!res.headersSent || isLate());
  return guard(res, name, (value) => !isOpen() && (value || isOver()));
}

/** Tells before an answer begins that may take long: with `write` or `flushHeaders`, not with `end`. */
export function beforeWrite(res: ServerResponse, listener: () => void): void {
  for (const name of ['write', 'flushHeaders']) {
    wrap(res, name, (write, args) => {
      listener();
      return write(...args);
    });
  }
}

/**
 * Makes a response the last on its connection. Node prefers a `Connection` header of the app, which many set for a
 * stream of events, to `shouldKeepAlive`.
 */
export function closeWithHead(res: ServerResponse, mustClose: () => boolean): void {
  wrap(res, 'writeHead', (writeHead, args) => {
    if (!mustClose() || res.headersSent) return writeHead(...args);
    if (res.hasHeader('Connection')) ServerResponse.prototype.setHeader.call(res, 'Connection', 'close');
    return writeHead(...args.map(closing));
  });
}

const isConnection = (name: unknown): boolean => /^connection$/i.test(String(name));

/** Headers are an object, a list of names and values in turn, or a list of pairs. */
function closing(headers: unknown): unknown {
  if (Array.isArray(headers)) {
    return headers.map((part, i) => (i % 2 === 1 && isConnection(headers[i - 1]) ? 'close' : closing(part)));
  }
  if (typeof headers !== 'object' || headers === null) return headers;
  return Object.fromEntries(
    Object.entries(headers).map(([name, value]) => [name, isConnection(name) ? 'close' : value]),
  );
}

// The connection, the server, the process

/** Node ends a connection with `destroySoon()` after its last response. @returns a function that restores Node's own */
export function replaceDestroySoon(socket: Socket, replacement: () => void): () => void {
  const own = Object.getOwnPropertyDescriptor(socket, 'destroySoon');
  put(socket, 'destroySoon', replacement);
  return () => {
    if (own === undefined) Reflect.deleteProperty(socket, 'destroySoon');
    else Object.defineProperty(socket, 'destroySoon', own);
  };
}

/** All events by which a server hands on input of a connection. Their first argument is the request, except for the last. */
const HANDED_ON = ['request', 'checkContinue', 'checkExpectation', 'upgrade', 'connect', 'dropRequest', 'clientError'];

const ARE_YOU_THERE = Symbol('express-unblock');

/** @param takes true for what must not be handed on @returns false if impossible */
export function filterConnections(server: Server, takes: (socket: Socket) => boolean): boolean {
  // Other packages that wrap `emit`, too, may have restored the method from before ours.
  const question = { answered: false };
  (server.emit as Method).call(server, ARE_YOU_THERE, question);
  if (question.answered) return true;
  return wrap(server, 'emit', (emit, args) => {
    const [event, first, second] = args;
    if (event === ARE_YOU_THERE) first.answered = true;
    else if (!HANDED_ON.includes(event) || !takes(event === 'clientError' ? second : first?.socket))
      return emit(...args);
    return true;
  });
}

const OF_ERRORS = ['unhandledRejection', 'uncaughtException', 'uncaughtExceptionMonitor'];

/**
 * Other packages replace `process.emit` and restore it in any order, so the property stays theirs. Only its reading is
 * patched: while an event may have to be stopped, the reader (Node, when it tells of an error) gets a function that asks
 * `stops` first.
 */
export function filterProcessEvents(mayStop: () => boolean, stops: (event: string, error: unknown) => boolean): void {
  let emit = process.emit as Method;
  const get = () => {
    const inner = emit;
    if (!mayStop()) return inner;
    return function emitUnlessStopped(this: NodeJS.Process, ...args: unknown[]) {
      const [event, error] = args as [string, unknown];
      return (OF_ERRORS.includes(event) && stops(event, error)) || inner.apply(this, args);
    };
  };
  const set = (to: Method) => {
    emit = to;
  };
  Reflect.defineProperty(process, 'emit', { configurable: true, enumerable: true, get, set });
}

// Express

interface OfApp extends IncomingMessage {
  readonly app?: { readonly _router?: Router; readonly router?: Router };
}
interface Router {
  readonly stack?: readonly Layer[];
  readonly params?: Readonly<Record<string, Method[]>>;
}
interface Layer {
  readonly handle?: Router;
  readonly route?: Router;
}
type NextFor = (req: IncomingMessage, res: ServerResponse, next: Next) => Next | undefined;

const guarded = new WeakSet<object>();

/** @returns true the first time */
function isNew(object: object): boolean {
  if (guarded.has(object)) return false;
  guarded.add(object);
  return true;
}

/**
 * A router gives every handler the same `next`. With it, a late handler would begin the next handler of its route, or
 * use up the error handlers. Here each handler gets its own: in the routers of an app that are there when a request
 * comes by, whatever copy of Express they are of.
 *
 * @param nextFor gives the `next` for a handler that is about to begin; `undefined` if it must not
 */
export function guardRouters({ app }: OfApp, nextFor: NextFor): void {
  if (!app || !isNew(app)) return;
  // Reading `app.router` throws on Express 4.
  guardRouter(app._router ?? app.router, nextFor);
}

function guardRouter(router: Router | undefined, nextFor: NextFor): void {
  if (!router?.stack || !isNew(router)) return;
  for (const layer of router.stack) {
    const layers = Object.getPrototypeOf(layer) as Record<string, Method>;
    if (isNew(layers)) guardLayers(layers, nextFor);
    guardRouter(layer.handle, nextFor);
    guardRouter(layer.route, nextFor);
  }
  const isAwaited = 'handleRequest' in (router.stack[0] ?? {});
  for (const fns of Object.values(router.params ?? {})) {
    for (const [index, fn] of fns.entries()) fns[index] = guardParam(fn, isAwaited, nextFor);
  }
}

/** The methods that call a handler, as Express 5 and 4 name them. */
function guardLayers(layers: Record<string, Method>, nextFor: NextFor): void {
  for (const name of ['handleRequest', 'handle_request']) {
    const handle = layers[name];
    if (handle === undefined) continue;
    put(layers, name, function handleRequest(this: object, req: IncomingMessage, res: ServerResponse, next: Next) {
      const own = nextFor(req, res, next);
      if (own !== undefined) handle.call(this, req, res, own);
    });
  }
  for (const name of ['handleError', 'handle_error']) {
    const handle = layers[name];
    if (handle === undefined) continue;
    put(layers, name, function (this: object, error: unknown, req: IncomingMessage, res: ServerResponse, next: Next) {
      const own = nextFor(req, res, next);
      if (own !== undefined) handle.call(this, error, req, res, own);
    });
  }
}

/** @param fn what `app.param()` has set @param isAwaited as in Express 5, which hands on what it rejects with */
function guardParam(fn: Method, isAwaited: boolean, nextFor: NextFor): Method {
  return function (this: unknown, req: IncomingMessage, res: ServerResponse, next: Next, ...rest: unknown[]) {
    const own = nextFor(req, res, next);
    const result = own && fn.call(this, req, res, own, ...rest);
    if (!isAwaited || !isPromise(result)) return result;
    return result.catch((error) => own?.(error || new Error('Rejected promise')));
  };
}
