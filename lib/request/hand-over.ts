import { AsyncResource } from 'node:async_hooks';
import { channel } from 'node:diagnostics_channel';
import { type IncomingMessage, ServerResponse, STATUS_CODES } from 'node:http';
import type { HttpError } from 'http-errors';
import { contexts, deadlineOf, type RequestContext } from './deadline';

/** How long the app's error handlers may stay silent before a bare response goes out in their place. */
const PATIENCE = 1000;

/** What writes to a response, Express's own methods first, so that a late call is reported by the name it was made. */
const WRITERS = [
  ...['json', 'jsonp', 'send', 'sendFile', 'sendfile', 'sendStatus', 'download', 'redirect', 'render'],
  ...['writeHead', 'write', 'end', 'setHeader', 'setHeaders', 'appendHeader', 'removeHeader', 'flushHeaders'],
  ...['addTrailers', 'writeContinue', 'writeProcessing', 'writeEarlyHints', 'cork', 'uncork', 'destroy'],
] as const;

/** Headers that tell of the body the handler never sent; all others (CORS, security, request id) stay. */
const OF_THE_BODY =
  /^(content-(?!security-policy)|etag|last-modified|cache-control|expires|age|pragma|accept-ranges|location|refresh|transfer-encoding|trailer|(repr-)?digest)/i;

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
  deadline.context.late = true;
  deadline.abort(error);
  const answering: RequestContext = { deadline, late: false };

  // What the handlers prepared goes first, while everything may still be written.
  for (const name of res.getHeaderNames()) if (OF_THE_BODY.test(name)) res.removeHeader(name);
  res.statusCode = error.status;
  res.statusMessage = '';

  reserve(res, answering, error, reportOnce(req, res));
  shield(req.socket);
  const fallback = setTimeout(() => {
    if (!res.headersSent) contexts.run(answering, () => answerBare(res, error.status));
    answering.late = true;
  }, PATIENCE);
  res.on('close', () => clearTimeout(fallback));
  contexts.run(answering, next, error);
}

function reportOnce(req: IncomingMessage, res: ServerResponse): (method: string) => void {
  const deadline = performance.now();
  let reported = false;
  return (method) => {
    if (reported) return;
    reported = true;
    if (late.hasSubscribers) late.publish({ req, res, method, lateBy: performance.now() - deadline });
  };
}

/** Lets only calls made in the `owner` context through to `res`. */
function reserve(res: ServerResponse, owner: RequestContext, error: HttpError, report: (method: string) => void): void {
  const allowed = () => contexts.getStore() === owner && !owner.late;
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
  for (const name of ['statusCode', 'statusMessage'] as const) {
    let value: unknown = res[name];
    Object.defineProperty(res, name, {
      configurable: true,
      enumerable: true,
      get: () => value,
      set: (to) => {
        if (allowed()) value = to;
      },
    });
  }
  // 'drain' comes in the socket's context: a stream that the owner pipes goes on in the owner's.
  for (const name of ['on', 'addListener', 'prependListener']) {
    const listen = methods[name] as (event: unknown, listener: unknown) => unknown;
    methods[name] = function (event, listener) {
      if (!allowed() || typeof listener !== 'function') return listen.call(this, event, listener);
      const bound = Object.assign(AsyncResource.bind(listener as () => void), {
        listener: (listener as { listener?: unknown }).listener ?? listener,
      });
      return listen.call(this, event, bound);
    };
  }
}

const shielded = new WeakSet<object>();

/** A late error ends in Express's final handler, which destroys the connection when the head has been sent. */
function shield(socket: IncomingMessage['socket']): void {
  if (shielded.has(socket)) return;
  shielded.add(socket);
  const destroy = socket.destroy;
  socket.destroy = function (...args) {
    return contexts.getStore()?.late ? this : destroy.apply(this, args);
  };
}

/** Straight from the prototype, past whatever wrapped this response and may be what hangs. */
function answerBare(res: ServerResponse, status: number): void {
  const body = STATUS_CODES[status] ?? String(status);
  for (const name of res.getHeaderNames()) if (OF_THE_BODY.test(name)) res.removeHeader(name);
  const { writeHead, end } = ServerResponse.prototype;
  writeHead.call(res, status, {
    'Content-Type': 'text/plain; charset=utf-8',
    'Content-Length': Buffer.byteLength(body),
  });
  (end as (body: string) => void).call(res, body);
}
