import { AsyncResource } from 'node:async_hooks';
import { subscribe } from 'node:diagnostics_channel';
import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import { Socket } from 'node:net';
import { contexts } from './context';
import { deadlineOf } from './deadline';
import { callLate } from './late';
import { beforeWrite, closeWithHead, endForReaders, filterConnections, onRead, replaceDestroySoon } from './patches';

/** If the rest of an abandoned body is longer, the connection is closed instead of kept. */
const KEPT = 256 * 1024;
/** How much, and for how long after the answer, the rest of a body is read so that the client can read the answer. */
const LINGER_BYTES = 64 * 1024 * 1024;
const LINGER_MS = 2000;
const LOOK_EVERY_MS = 50;

/**
 * Drops the rest of this body: readers see the stream closed, and bytes are dropped as they arrive. Express's final
 * handler sees a complete request, and answers at once instead of after the upload.
 *
 * @param remainder bytes still to come; `undefined` when unknown
 * @param answer called when it is known whether the answer may keep the connection: at once if it may not, otherwise
 *   when nothing more is there to read, which was sent by someone who had not read the answer
 */
export function abandonBody(req: IncomingMessage, res: ServerResponse, remainder?: number, answer?: () => void): void {
  const upload = req.complete === false ? (uploads.get(req) ?? Upload.of(req, res)) : undefined;
  if (upload === undefined) answer?.();
  else upload.abandon(remainder, answer);
}

/** The client waits for `100 Continue` and has not been told to go ahead. */
export function awaitsContinue(req: IncomingMessage): boolean {
  return uploads.get(req)?.state === 'awaiting 100';
}

/** Requests that asked for a `100 Continue`. */
const uploads = new WeakMap<IncomingMessage, Upload>();

/** The abandoned body of each connection, until its end has arrived. */
const abandonedOn = new WeakMap<Socket, Upload>();

/**
 * The body of a request, its answer, and the connection behind both:
 *
 *     awaiting 100 → reading → abandoned → answered → kept
 *                 └────────────↗                  └→ closing
 *
 * - `awaiting 100`: the client sends its body when it is told to, or does not: as long as nobody knows, the answer is
 *   the last on its connection
 * - `reading`: as without us
 * - `abandoned`: its readers see it closed, and its rest is dropped
 * - `answered`: the response is with the socket; the rest is still dropped, within bounds
 * - `kept`: the rest has arrived and was short: the connection serves the next request
 * - `closing`: we have said that we are done, and wait until the client is, too. Closing a connection with unread
 *   input resets it, and the client may lose the answer (RFC 9112, section 9.6)
 */
class Upload {
  state: 'awaiting 100' | 'reading' | 'abandoned' | 'answered' | 'kept' | 'closing' = 'reading';
  /** The answer is the last on its connection. */
  #isLast = false;
  #arrived = false;
  /** More input followed the body, so that the client may take the answer for another request's. */
  #followed = false;
  /** As far as is known, the rest is too long to keep the connection. */
  #isLong = () => false;
  #startedAt = 0;
  #answeredAt = 0;
  #timer: NodeJS.Timeout | undefined;
  #restoreDestroySoon = () => {};

  private constructor(
    private readonly req: IncomingMessage,
    private readonly res: ServerResponse,
    private readonly socket: Socket,
  ) {}

  /** `undefined` for a request of a test's own, and for a connection that is another stream than a socket. */
  static of(req: IncomingMessage, res: ServerResponse): Upload | undefined {
    const { socket } = req;
    if (!(socket instanceof Socket && (socket as { server?: Server }).server)) return undefined;
    const upload = new Upload(req, res, socket);
    closeWithHead(res, () => upload.#isLast);
    return upload;
  }

  /** The `100` goes out when the body is first read, so that a refusal can come instead. */
  awaitRead(): void {
    this.state = 'awaiting 100';
    const { req, res } = this;
    const { shouldKeepAlive } = res;
    this.#makeLast();
    let begun = false;
    const proceed = () => {
      if (begun || res.writableEnded || this.state !== 'awaiting 100') return;
      this.state = 'reading';
      if (!res.headersSent) {
        this.#isLast = false;
        res.shouldKeepAlive = shouldKeepAlive;
        res.writeContinue();
      } else {
        // From version 24 on, Node refuses it after a head that is made and not yet sent.
        res.socket?.write('HTTP/1.1 100 Continue\r\n\r\n');
      }
    };
    onRead(req, proceed);
    // A streamed answer may depend on the body that is still to be read, and after its head it is too late for the
    // `100`. An answer that refused the body has destroyed the request, also where another copy of this package made it.
    beforeWrite(res, () => {
      if (res.statusCode < 400 && !req.destroyed) proceed();
      begun = true;
    });
    res.prependListener('finish', () => {
      if (this.state === 'awaiting 100') this.abandon();
    });
  }

  abandon(remainder?: number, answer?: () => void): void {
    const { res, socket } = this;
    this.state = 'abandoned';
    this.#startedAt = socket.bytesRead;
    this.#isLong = () => (remainder ?? this.#taken) > KEPT;
    abandonedOn.set(socket, this);
    // Node sets `server` on every connection of an HTTP server.
    const { server } = socket as Socket & { server: Server };
    if (!filterConnections(server, isTaken)) this.#makeLast();
    this.#restoreDestroySoon = replaceDestroySoon(socket, () => this.#onLastResponse());
    this.#dropRest();

    // Over TLS, `finish` comes only after the client may have sent its next request; `prefinish` comes before.
    if (res.writableFinished) this.#onAnswered();
    else {
      const onAnswered = () => this.#onAnswered();
      res.on('prefinish', onAnswered).prependListener('finish', onAnswered);
    }
    if (answer !== undefined) this.#answerWhenKnown(answer);
    else if (this.#isLong()) this.#makeLast();
  }

  /** Node reads `shouldKeepAlive` unless the app has set a `Connection` header; for that, see `closeWithHead`. */
  #makeLast(): void {
    this.#isLast = true;
    this.res.shouldKeepAlive = false;
  }

  get #taken(): number {
    return this.socket.bytesRead - this.#startedAt;
  }

  /** Called for input that the server would hand on. @returns true: it must not */
  onFollowed(): true {
    this.#followed = true;
    return true;
  }

  #dropRest(): void {
    const { req, res } = this;
    endForReaders(req, (chunk) => {
      if (chunk === null) this.#arrived = true;
      if (this.state === 'answered') this.#settle();
      return this.#taken <= LINGER_BYTES;
    });
    // Only handlers still listen to the body: their listeners run in their context.
    const deadline = deadlineOf(req, res);
    contexts.run(deadline.handlers, () => req.destroy());
    // Node emits `aborted` when a client has left: proxies and upload parsers then clean up. It comes one tick later, when
    // the request is not theirs any more, since some of them hand on an error of their own.
    process.nextTick(() => {
      req.aborted = true;
      callLate(deadline, () => req.emit('aborted'));
    });
    this.socket.resume();
  }

  #answerWhenKnown(answer: () => void): void {
    const { socket } = this;
    let isDecided = false;
    const decide = (nothingCame: boolean) => {
      if (isDecided) return;
      if (this.#followed || this.#isLong()) this.#makeLast();
      isDecided = nothingCame || !this.res.shouldKeepAlive;
      if (isDecided) {
        socket.off('end', onEnd);
        answer();
        return;
      }
      const before = socket.bytesRead;
      setImmediate(() => decide(socket.bytesRead === before));
    };
    // Node is about to end its side of the connection, too.
    const onEnd = AsyncResource.bind(() => decide(true));
    socket.prependListener('end', onEnd);
    // One turn of the event loop reads all input there is. The current turn may be in the middle of it.
    if (this.#isLong()) decide(false);
    else setImmediate(decide, false);
  }

  #onAnswered(): void {
    if (this.state !== 'abandoned' || this.socket.destroyed) return;
    this.state = 'answered';
    this.#answeredAt = performance.now();
    this.#timer = setInterval(() => this.#settle(), LOOK_EVERY_MS).unref();
    this.socket.on('close', this.#stop);
    this.#settle();
  }

  /** Node wants to end the connection: at once after an earlier response, later after this one. */
  #onLastResponse(): void {
    if (this.state === 'abandoned') {
      this.#restoreDestroySoon();
      this.socket.destroySoon();
    } else this.#makeLast();
  }

  #settle(): void {
    const { socket } = this;
    if (this.#arrived && this.state === 'answered' && this.res.shouldKeepAlive && !this.#followed && !this.#isLong()) {
      this.state = 'kept';
      abandonedOn.delete(socket);
      this.#restoreDestroySoon();
      this.#stop();
    } else if (performance.now() - this.#answeredAt > LINGER_MS) socket.destroy();
    else if (this.#taken > LINGER_BYTES) socket.pause().end();
    else if (this.#arrived || this.#followed || socket.readableEnded) {
      this.state = 'closing';
      setImmediate(endAndDrop, socket);
    }
  }

  readonly #stop = (): void => {
    clearInterval(this.#timer);
    this.socket.off('close', this.#stop);
  };
}

function isTaken(socket: Socket): boolean {
  return abandonedOn.get(socket)?.onFollowed() ?? false;
}

/** Ends our side, and drops further input without parsing it. */
function endAndDrop(socket: Socket): void {
  socket.removeAllListeners('data').on('data', () => {});
  socket.resume().end();
}

/**
 * By itself Node writes `100 Continue` before the request is looked at (RFC 9110, section 10.1.1), unless the server
 * has a `checkContinue` listener. The public channel tells of each request just before that is decided, on any server
 * and without the user wiring anything to it. The user's own listener wins.
 */
subscribe('http.server.request.start', (message) => {
  const { request, server } = message as { request: IncomingMessage; server: Server };
  if (request.headers.expect === undefined || server.listenerCount('checkContinue') > 0) return;
  server.once('checkContinue', continueOnRead);
});

function continueOnRead(this: Server, req: IncomingMessage, res: ServerResponse): void {
  if (this.listenerCount('checkContinue') > 0) return;
  const upload = Upload.of(req, res);
  if (upload === undefined) res.writeContinue();
  else {
    uploads.set(req, upload);
    upload.awaitRead();
  }
  this.emit('request', req, res);
}
