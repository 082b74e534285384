import { AsyncResource } from 'node:async_hooks';
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import { contexts } from './context';
import { deadlineOf } from './deadline';
import { isLast, makeLast } from './last';
import { ignorePipelined } from './pipelined';

/** Up to here the rest of an abandoned body is read and the connection kept; a longer rest costs the connection. */
const KEPT = 256 * 1024;
/** How much, and for how long after the answer, the rest of a body is read so that the client can read the answer. */
const LINGER_BYTES = 64 * 1024 * 1024;
const LINGER_MS = 2000;
const LOOK_EVERY_MS = 50;

/**
 * Nobody will hear of the rest of this body: readers see the stream closed, arriving bytes are dropped as they come.
 * To Express's final handler the request is over, so that it answers at once instead of after the upload.
 *
 * @param remainder bytes still to come; `undefined` when unknown
 * @param answer called when it is known whether the answer may keep the connection: at once if it may not, otherwise
 *   when nothing more is there to read, which was sent by someone who had not read the answer
 */
export function abandonBody(req: IncomingMessage, res: ServerResponse, remainder?: number, answer?: () => void): void {
  if (req.complete) {
    answer?.();
    return;
  }
  const { socket } = req;
  const rest = dropRest(req, res, remainder);
  linger(socket, res, rest);
  if (answer !== undefined) answerWhenKnown(socket, res, rest, answer);
  else if (rest.isLong()) makeLast(res);
}

/** What is still to come of an abandoned body, and what comes behind it. */
interface Rest {
  readonly following: ReturnType<typeof ignorePipelined>;
  /** Bytes so far, of whatever it is. */
  taken(): number;
  /** It costs the connection, as far as anybody knows. */
  isLong(): boolean;
  arrived: boolean;
  onArrived: () => void;
}

function dropRest(req: IncomingMessage, res: ServerResponse, remainder: number | undefined): Rest {
  const { socket } = req;
  const start = socket.bytesRead;
  const taken = () => socket.bytesRead - start;
  const isLong = () => (remainder ?? taken()) > KEPT;
  const rest: Rest = { following: ignorePipelined(socket), taken, isLong, arrived: false, onArrived: () => {} };
  req.push = (chunk) => {
    if (chunk === null) rest.arrived = true;
    if (rest.arrived) rest.onArrived();
    return taken() <= LINGER_BYTES;
  };
  // The stream ends for its readers only: IncomingMessage's own would take the connection with it.
  req._destroy = (error, callback) => callback(error);
  req.complete = true;
  // Whoever still listens to the body is the handlers.
  const { context } = deadlineOf(req, res);
  contexts.run(context, () => req.destroy());
  // As Node tells them of a client that has left: by this, proxies and upload parsers know to clean up. Once the
  // request is no longer theirs, since some of them hand on an error of their own.
  process.nextTick(() => {
    req.aborted = true;
    contexts.run(context, () => req.emit('aborted'));
  });
  socket.resume();
  return rest;
}

/**
 * Closing a connection with unread input resets it, and the client may lose the answer (RFC 9112, section 9.6). So
 * the connection lingers: it goes on reading, within bounds, says that it is over when the body is, and is gone when
 * the client has closed its side too.
 */
function linger(socket: Socket, res: ServerResponse, rest: Rest): void {
  let answered = 0;
  // Node ends a connection with `destroySoon()` once its last response is out: after this one, that waits.
  let last = false;
  const { destroySoon } = socket;
  socket.destroySoon = () => {
    last = answered > 0;
    if (!last) destroySoon.call(socket);
  };

  const settle = () => {
    const { arrived, following } = rest;
    if (arrived && !last && !isLast(res) && !following.seen && !rest.isLong()) {
      following.stop();
      socket.destroySoon = destroySoon;
      stop();
    } else if (performance.now() - answered > LINGER_MS) socket.destroy();
    else if (rest.taken() > LINGER_BYTES) socket.pause().end();
    else if (arrived || following.seen || socket.readableEnded) setImmediate(endAndDrop, socket);
  };
  let looking: NodeJS.Timeout | undefined;
  const stop = () => {
    clearInterval(looking);
    socket.off('close', stop);
  };
  const onAnswered = () => {
    if (answered > 0 || socket.destroyed) return;
    answered = performance.now();
    looking = setInterval(settle, LOOK_EVERY_MS).unref();
    socket.on('close', stop);
    rest.onArrived = settle;
    settle();
  };
  if (res.writableFinished) onAnswered();
  // Handed over to the socket; over TLS it is finished only after the client may have sent its next request.
  else res.on('prefinish', onAnswered).prependListener('finish', onAnswered);
}

function answerWhenKnown(socket: Socket, res: ServerResponse, rest: Rest, answer: () => void): void {
  let decided = false;
  const decide = (nothingCame: boolean) => {
    if (decided) return;
    if (rest.following.seen || rest.isLong()) makeLast(res);
    decided = nothingCame || isLast(res);
    if (decided) {
      socket.off('end', onEnd);
      answer();
      return;
    }
    const before = socket.bytesRead;
    setImmediate(() => decide(socket.bytesRead === before));
  };
  // Node is about to end its side too.
  const onEnd = AsyncResource.bind(() => decide(true));
  socket.prependListener('end', onEnd);
  // One turn of the event loop reads what there is; the one that we are in may be in the middle of it.
  if (rest.isLong()) decide(false);
  else setImmediate(decide, false);
}

/** What still comes in is not even parsed. */
function endAndDrop(socket: Socket): void {
  socket.removeAllListeners('data').on('data', () => {});
  socket.resume().end();
}
