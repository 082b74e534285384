import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import { badOption, clientClosed } from '../errors';
import { parseTime, type Time } from '../options';
import { contexts, type Deadline, type RequestContext } from './context';
import type { Expiry } from './expiry';
import { type Failure, forgiveLateErrors, reportLate } from './late';
import { guardRouters, type Next, watchChunks } from './patches';
import { type UpstreamTime, upstreamHeaders } from './upstream';

/** How long after the response a request still counts as the one for which code runs. */
export const PAST_MS = 5000;
/** How long the calls of a handler are refused after it was told that its request is over. */
const TOLD_MS = 100;

/**
 * The deadline of a request, made on first use.
 *
 * @throws TypeError `ERR_UNBLOCK_BAD_OPTION` for a request that cannot have one
 */
export function deadlineOf(req: IncomingMessage, res: ServerResponse): RequestDeadline {
  return existingDeadline(req) ?? makeDeadline(req, res);
}

const UNGUARDED = Symbol('express-unblock unguarded');
type RouterNext = Next & { [UNGUARDED]?: Next };

/** Express keeps the `next` of the innermost router that is at work on the request. */
export type Routed = IncomingMessage & { next?: RouterNext };

/** Express's own, to be called on behalf of whoever has the response. */
export function routerNextOf({ next }: Routed): Next | undefined {
  return next?.[UNGUARDED] ?? next;
}

/** Not `req.deadline`, which an app may use for something of its own. */
const DEADLINE = Symbol('express-unblock deadline');

/** Kept on the request itself: a WeakMap of requests costs the garbage collector more than all the rest of this file. */
export function existingDeadline(req: IncomingMessage): RequestDeadline | undefined {
  return (req as { [DEADLINE]?: RequestDeadline })[DEADLINE];
}

/** @throws TypeError `ERR_UNBLOCK_BAD_OPTION` for a request whose body and connection are not as HTTP/1.1 has them */
export function checkVersion(req: IncomingMessage): void {
  if (req.httpVersionMajor < 2 || req.httpVersionMajor === undefined) return;
  throw badOption('express-unblock: a request over HTTP/2 can have no deadline and no limit; serve it over HTTP/1.1');
}

/** A websocket library or a proxy takes it: its connection becomes a plain socket without a response. */
export function isUpgrade(req: IncomingMessage): boolean {
  return (req as { upgrade?: boolean }).upgrade === true;
}

function makeDeadline(req: IncomingMessage, res: ServerResponse): RequestDeadline {
  checkVersion(req);
  if (typeof res.on !== 'function') throw badOption('express-unblock: res must tell of its end: it has no method on()');
  const deadline = new RequestDeadline(req, res);
  try {
    (req as { deadline?: unknown }).deadline = deadline;
    (req as { [DEADLINE]?: RequestDeadline })[DEADLINE] = deadline;
  } catch {
    throw badOption('express-unblock: req.deadline cannot be set, since req is frozen or not extensible');
  }
  guardRouters(req, nextFor);
  deadline.guardExit(req);
  // Node parses headers when they are first read, which costs time: those of a GET are not read here.
  const mayHaveBody = req.method !== 'GET' && req.method !== 'HEAD' && typeof req.push === 'function';
  if (mayHaveBody && hasBody(req)) watchChunks(req, deadline.handlers);
  return deadline;
}

export function hasBody({ headers }: IncomingMessage): boolean {
  return headers?.['content-length'] !== undefined || headers?.['transfer-encoding'] !== undefined;
}

/** Keeps a late handler from beginning the next. */
function nextFor(req: IncomingMessage, res: ServerResponse, next: Next): Next | undefined {
  const deadline = existingDeadline(req);
  if (deadline === undefined) return next;
  guardRouters(req, nextFor); // Those of an app that is mounted in another.
  if (deadline.answering !== deadline.handlers && !deadline.mayAnswer()) {
    reportLate(deadline, 'next');
    return undefined;
  }
  deadline.closeListeners = res.listenerCount('close');
  deadline.guardExit(req);
  return deadline.guard(next);
}

const queues = new WeakMap<Socket, Set<() => void>>();

/** A response queued behind another on its connection has no socket yet; on Node 20 and 22 it is never told of a close. */
function onCloseInQueue(socket: Socket, res: ServerResponse, listener: () => void): void {
  const queue = queues.get(socket) ?? new Set();
  queues.set(socket, queue);
  // One listener for all of them: Node warns of a leak if a client sends many requests at once.
  if (queue.size === 0) socket.on('close', tellQueue);
  queue.add(listener);
  res.once('socket', () => {
    queue.delete(listener);
    if (queue.size === 0) socket.off('close', tellQueue);
  });
}

function tellQueue(this: Socket): void {
  for (const listener of queues.get(this) ?? []) listener();
}

/**
 * Asked at its `close`: the client left before the end of the response. On Node 20 and 22, `writableFinished` is true
 * for a response that was ended on a dead connection, so that the socket is asked.
 */
function isUnfinished(res: ServerResponse): boolean {
  return res.writableEnded === false || (res.socket ? res.socket.destroyed : res.writableFinished === false);
}

export class RequestDeadline implements Deadline {
  readonly handlers: RequestContext = { role: 'handler', deadline: this };
  /** Whose response it is: the handlers', after a failure the error handlers', at last nobody's. */
  answering: RequestContext | undefined = this.handlers;
  expired = false;
  /** The limit last set, in milliseconds. */
  limit = Number.POSITIVE_INFINITY;
  /** When it passes, on the clock of `performance.now()`. */
  at = Number.POSITIVE_INFINITY;
  /** Why the work was stopped. */
  reason: unknown;
  /** Set when the response is taken from the handlers, until their late calls are not reported any more. */
  failure: Failure | undefined;
  /** The number of `close` listeners when the current handler began. */
  closeListeners = 0;
  /** What the request's headers say, once they were read. */
  upstream: UpstreamTime | undefined;
  #expiry: Expiry | undefined;
  #movers: Set<() => void> | undefined;
  #isOver = false;
  #closedAt = Number.POSITIVE_INFINITY;
  #toldAt = Number.POSITIVE_INFINITY;
  #controller: AbortController | undefined;

  constructor({ socket }: IncomingMessage, res: ServerResponse) {
    const queued = res.socket === null && !res.writableEnded;
    if (!res.writableEnded && (res.destroyed || (queued && socket?.destroyed))) this.abort(clientClosed());
    const onClose = () => {
      if (isUnfinished(res)) this.abort(clientClosed());
      this.#isOver = true;
      this.#closedAt = Math.min(this.#closedAt, performance.now());
      this.clear();
      // Timers and sockets that outlive the request keep its context; they must not keep its `req` and `res` as well.
      this.#expiry = undefined;
    };
    // The request's own 'close' comes as soon as its body was read, and does not mean that the client left.
    res.on('close', onClose);
    if (queued && socket) onCloseInQueue(socket, res, onClose);
    this.closeListeners = res.listenerCount?.('close') ?? 0;
  }

  /** Made when first asked for: most requests never do. */
  get signal(): AbortSignal {
    if (this.#controller === undefined) {
      this.#controller = new AbortController();
      if (this.reason !== undefined) this.#controller.abort(this.reason);
    }
    return this.#controller.signal;
  }

  /** The response was over some seconds ago. */
  get isPast(): boolean {
    return performance.now() - this.#closedAt > PAST_MS;
  }

  /**
   * Whether a call for a request that was stopped must not begin. The first refusal tells the handler. Code that still
   * calls after that was opened for the whole app, such as a queue: its calls run.
   */
  refusesCalls(): boolean {
    const now = performance.now();
    this.#toldAt = Math.min(this.#toldAt, now);
    return now - this.#toldAt < TOLD_MS;
  }

  /** The expiry to use if the handler of a request without a limit sets one. */
  offer(expiry: Expiry): void {
    if (!this.#isOver) this.#expiry ??= expiry;
  }

  /** @param limit the limit that the error tells; more than `left` if part of it was over before the request came in */
  start(expiry: Expiry, left: number, limit = left): void {
    if (this.#isOver) return;
    this.#expiry?.clear();
    this.#expiry = expiry;
    this.#set(left, limit);
  }

  extend(time: Time): void {
    const left = parseTime('deadline.extend', 'time', time);
    this.#set(left, left);
  }

  remaining(): number {
    return this.expired ? 0 : Math.max(0, this.at - performance.now());
  }

  headers(): Record<string, string> {
    return upstreamHeaders(this.remaining());
  }

  clear(): void {
    this.#expiry?.clear();
    if (!this.expired) this.#moveTo(Number.POSITIVE_INFINITY);
  }

  /** For work on other machines, which cannot look at `at`. @returns takes the listener off */
  onMove(listener: () => void): () => void {
    this.#movers ??= new Set();
    const movers = this.#movers.add(listener);
    return () => movers.delete(listener);
  }

  #moveTo(at: number): void {
    this.at = at;
    for (const listener of this.#movers ?? []) listener();
  }

  /** Stops the work of the request. The first reason counts. */
  abort(reason: unknown): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.clear();
    this.reason = reason;
    forgiveLateErrors();
    if (this.#controller === undefined) return;
    contexts.run(this.handlers, () => this.#controller?.abort(reason));
  }

  /** The calling code may write the response, and go on to the next handler. */
  mayAnswer(): boolean {
    return this.answering !== undefined && contexts.getStore() === this.answering;
  }

  /** A `next` that does nothing once the response has passed from those who got it to others. */
  guard(next: Next, given = this.answering): Next {
    return (error) => {
      if (this.answering === given && given?.role === 'handler') next(error);
      // Also from a callback that has lost the context.
      else if (this.answering === given && given !== undefined) contexts.run(given, next, error);
      else if (this.mayAnswer()) next(error);
      else reportLate(this, 'next', error);
    };
  }

  /** `res.render()` and `res.sendFile()` of Express hand their errors to the `next` that the router keeps on the request. */
  guardExit(req: Routed): void {
    const { next } = req;
    if (typeof next !== 'function' || next[UNGUARDED] !== undefined) return;
    const own: RouterNext = this.guard(next, this.handlers);
    own[UNGUARDED] = next;
    Reflect.set(req, 'next', own);
  }

  #set(left: number, limit: number): void {
    if (this.#isOver || this.#expiry === undefined) return;
    this.limit = limit;
    this.#expiry.set(left);
    this.#moveTo(this.#expiry.at);
  }
}
