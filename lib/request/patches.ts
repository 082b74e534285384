import { type IncomingMessage, type Server, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import { badOption } from '../errors';
import { contexts, type RequestContext } from './context';

/*
 * All that is patched on objects that are not ours. Nothing is, on a request, before its body is watched, it asks for
 * a `100 Continue`, or it has failed; an object that does not allow it stays as it is.
 *
 * | what                                | why no public way does it          | when Node or Express changes it              |
 * |-------------------------------------|------------------------------------|----------------------------------------------|
 * | req.push                            | a `data` listener starts the flow  | bodies pass uncounted: limit-input tests     |
 * | req._destroy, complete, aborted     | destroy() closes the connection    | the client loses the answer to its upload    |
 * | req._read                           | nothing tells of the first read    | the `100` is never sent: clients wait        |
 * | req.url, baseUrl, params            | routers write them on the way out  | a late handler sees others' paths            |
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

/** Makes what is read from a property, and whether it is written, depend on who does it. */
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
 * Runs what reads a body in the context of its request: it arrives in that of its connection.
 *
 * @param look sees each chunk first, `null` for the end; true when it has taken it
 * @throws TypeError `ERR_UNBLOCK_BAD_OPTION` where that is impossible
 */
export function watchChunks(
  req: IncomingMessage,
  context: RequestContext,
  look: (chunk: Uint8Array | null) => boolean = () => false,
): void {
  const isPossible = wrap(req, 'push', (push, args) => {
    if (look(args[0])) return true;
    return contexts.getStore() === context ? push(...args) : contexts.run(context, push, ...args);
  });
  // Requests of tests may be no streams, or frozen.
  if (!isPossible || typeof req.push !== 'function')
    throw badOption('limitInput: the body of this req cannot be counted');
}

/** The stream ends for its readers only: IncomingMessage's own `_destroy` would take the connection with it. */
export function endForReaders(req: IncomingMessage, take: (chunk: unknown) => boolean): void {
  put(req, 'push', take);
  put(req, '_destroy', (error: unknown, callback: Next) => callback(error));
  req.complete = true;
}

/** @param listener called each time that more of a body is asked for */
export function onRead(req: IncomingMessage, listener: () => void): void {
  wrap(req, '_read', (read, args) => {
    listener();
    return read(...args);
  });
}

/** Handlers that go on see the request as it was, whatever the routers make of it for the error handlers. */
export function freezeRoute(req: IncomingMessage, isLate: () => boolean): void {
  const seen = req as unknown as Record<string, unknown>;
  for (const name of ['url', 'baseUrl', 'params']) {
    const before = seen[name];
    const now = (value: unknown) => (isLate() ? before : value);
    if (name in req) guard(req, name, now, () => !isLate());
  }
}

// The response

/** What writes to a response, Express's own methods first, so that a late call is reported by the name it was made. */
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
  /** Told of a call that was refused; what it gives goes to the callback that was passed. */
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
      // To a stream that pipes, false means: wait.
      return name === 'write' ? false : self;
    });
    return isWrapped || !ESSENTIAL.includes(name);
  });
  for (const name of ['statusCode', 'statusMessage']) guard(res, name, (value) => value, allows);
  // Behind an earlier request on its connection, a response is given its socket later, and flushed; each `drain` comes in
  // the context of the write before it.
  if (!res.socket) wrap(res, 'assignSocket', (assign, args) => contexts.run(context, assign, ...args));
  // `pipeline()` asks for `closed`, then `destroyed`, and refuses what is: from Node 24 on it leaves the source open.
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
 * Node's own methods, kept from before and called past the ones above, do nothing on a response that is over. To
 * whoever else looks, it is so only until the error handlers have begun: Node asks for it when the socket has drained.
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

/** Tells before an answer begins that may go on for long: by `write` and `flushHeaders`, not by `end`. */
export function beforeWrite(res: ServerResponse, listener: () => void): void {
  for (const name of ['write', 'flushHeaders']) {
    wrap(res, name, (write, args) => {
      listener();
      return write(...args);
    });
  }
}

/**
 * Makes a response the last on its connection, whatever the app says: Node lets a `Connection` header, which many set
 * for a stream of events, outweigh `shouldKeepAlive`.
 */
export function closeWithHead(res: ServerResponse, mustClose: () => boolean): void {
  wrap(res, 'writeHead', (writeHead, args) => {
    if (!mustClose() || res.headersSent) return writeHead(...args);
    if (res.hasHeader('Connection')) ServerResponse.prototype.setHeader.call(res, 'Connection', 'close');
    return writeHead(...args.map(closing));
  });
}

const isConnection = (name: unknown): boolean => /^connection$/i.test(String(name));

/** Headers come as an object, as names and values in turn, or as pairs of them. */
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

/** Node ends a connection with `destroySoon()` once its last response is out. @returns puts Node's own back */
export function replaceDestroySoon(socket: Socket, replacement: () => void): () => void {
  const own = Object.getOwnPropertyDescriptor(socket, 'destroySoon');
  put(socket, 'destroySoon', replacement);
  return () => {
    if (own === undefined) Reflect.deleteProperty(socket, 'destroySoon');
    else Object.defineProperty(socket, 'destroySoon', own);
  };
}

/** Everything by which a server hands on what came in on a connection; all begin with the request but the last. */
const HANDED_ON = ['request', 'checkContinue', 'checkExpectation', 'upgrade', 'connect', 'dropRequest', 'clientError'];

const ARE_YOU_THERE = Symbol('express-unblock');

/** @param takes true for what must not be handed on @returns false if impossible */
export function filterConnections(server: Server, takes: (socket: Socket) => boolean): boolean {
  // Others who have wrapped `emit`, too, may have put back what they had.
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
 * Others replace `process.emit` and put it back, in whatever order: the property stays theirs. Who reads it where an
 * event may have to be stopped, as Node does to tell of an error, gets a function that asks `stops` first.
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

interface Routed extends IncomingMessage {
  readonly app?: { readonly _router?: Router; readonly router?: Router };
}
interface Router {
  readonly stack?: readonly object[];
}
type NextFor = (req: IncomingMessage, res: ServerResponse, next: Next) => Next | undefined;

const guarded = new WeakSet<object>();

/**
 * Routers hand every handler the same `next`, with which a late one would begin the next handler of its route, or use
 * up the error handlers. Each call of a layer is where they can be told apart.
 *
 * @param nextFor gives the `next` for a handler that is about to begin; `undefined` if it must not
 */
export function guardRouters({ app }: Routed, nextFor: NextFor): void {
  if (!app || guarded.has(app)) return;
  guarded.add(app);
  // Express 4 throws on `app.router`.
  const [layer] = (app._router ?? app.router)?.stack ?? [];
  const layers = layer && (Object.getPrototypeOf(layer) as Record<string, Method>);
  if (!layers || guarded.has(layers)) return;
  guarded.add(layers);
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
