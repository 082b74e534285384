import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import { clientClosed } from '../errors';
import { parseTime, type Time } from '../options';
import { contexts, type Deadline, type RequestContext } from './context';
import { forgiveLateErrors } from './late-errors';

export function deadlineOf(req: IncomingMessage, res: ServerResponse): RequestDeadline {
  // On the request itself: a WeakMap of requests costs the garbage collector more than all the rest of this file.
  const holder = req as { deadline?: unknown };
  if (holder.deadline instanceof RequestDeadline) return holder.deadline;
  const deadline = new RequestDeadline(req, res);
  holder.deadline = deadline;
  const { headers } = req;
  if (headers['content-length'] !== undefined || headers['transfer-encoding'] !== undefined) listenIn(req, deadline);
  return deadline;
}

/** A body arrives in the context of its connection; what its listeners do belongs to the request all the same. */
function listenIn(req: IncomingMessage, deadline: RequestDeadline): void {
  const { emit } = req;
  req.emit = function emitInContext(...args: unknown[]) {
    if (contexts.getStore()?.deadline === deadline) return Reflect.apply(emit, this, args);
    return contexts.run(deadline.context, () => Reflect.apply(emit, this, args));
  };
}

const queues = new WeakMap<Socket, Set<() => void>>();

/** Behind an earlier request on its connection a response has no socket yet, and is not told when that closes. */
function onCloseInQueue(socket: Socket, res: ServerResponse, listener: () => void): void {
  const queue = queues.get(socket) ?? new Set();
  queues.set(socket, queue);
  // One for all of them: Node would take as many as a client may send at once for a leak.
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

const doNothing = (): void => {};

export class RequestDeadline implements Deadline {
  /** The handlers' own context; the error handlers get another. */
  readonly context: RequestContext = { deadline: this, late: undefined };
  expired = false;
  /** The limit last set, in milliseconds. */
  limit = Number.POSITIVE_INFINITY;
  /** When it passes, on the clock of `performance.now()`. */
  at = Number.POSITIVE_INFINITY;
  #onExpire = doNothing;
  #movers: Set<() => void> | undefined;
  #timer: NodeJS.Timeout | undefined;
  #over = false;
  /** Why the work was stopped. */
  reason: unknown;
  #controller: AbortController | undefined;

  constructor({ socket }: IncomingMessage, res: ServerResponse) {
    const queued = res.socket === null && !res.writableEnded;
    if (!res.writableEnded && (res.destroyed || (queued && socket.destroyed))) this.abort(clientClosed());
    const onClose = () => {
      if (!res.writableEnded) this.abort(clientClosed());
      this.#over = true;
      this.clear();
      // A connection opened on behalf of this request, and kept in a pool, would keep its `req` and `res` as well.
      this.#onExpire = doNothing;
    };
    // The request's own 'close' comes as soon as its body was read, and does not mean that the client left.
    res.on('close', onClose);
    if (queued) onCloseInQueue(socket, res, onClose);
  }

  /** Made when first asked for: most requests never do. */
  get signal(): AbortSignal {
    if (this.#controller === undefined) {
      this.#controller = new AbortController();
      if (this.reason !== undefined) this.#controller.abort(this.reason);
    }
    return this.#controller.signal;
  }

  start(limit: number, onExpire: () => void): void {
    this.#onExpire = onExpire;
    this.#set(limit);
  }

  extend(time: Time): void {
    this.#set(parseTime('deadline.extend', 'time', time));
  }

  remaining(): number {
    return this.expired ? 0 : Math.max(0, this.at - performance.now());
  }

  clear(): void {
    clearTimeout(this.#timer);
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

  /** Stops the work: there will be no answer from it. The first reason counts. */
  abort(reason: unknown): void {
    if (this.#over) return;
    this.#over = true;
    this.clear();
    this.reason = reason;
    forgiveLateErrors();
    if (this.#controller === undefined) return;
    contexts.run(this.context, () => this.#controller?.abort(reason));
  }

  #set(limit: number): void {
    if (this.#over || this.#onExpire === doNothing) return;
    clearTimeout(this.#timer);
    this.limit = limit;
    this.#moveTo(performance.now() + limit);
    this.#timer = setTimeout(() => this.#confirm(), limit);
  }

  /**
   * Where the event loop was blocked, timers go before what came in meanwhile. Work whose result is here is done, and
   * throwing it away helps nobody: the deadline passes once that has had its turn, if it still stands.
   */
  #confirm(): void {
    const { at } = this;
    setImmediate(() => {
      if (this.at === at) this.#onExpire();
    });
  }
}
