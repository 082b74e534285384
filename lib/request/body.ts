import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
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
 * Closing a connection with unread input resets it, and the client may lose the answer (RFC 9112, section 9.6). So
 * the connection lingers: it goes on reading, within bounds, says that it is over when the body is, and is gone when
 * the client has closed its side too.
 *
 * @param remainder bytes still to come; `undefined` when unknown
 */
export function abandonBody(req: IncomingMessage, res: ServerResponse, remainder?: number): void {
  if (req.complete) return;
  const { socket } = req;
  const start = socket.bytesRead;
  const taken = () => socket.bytesRead - start;
  let arrived = false;

  const following = ignorePipelined(socket);
  if ((remainder ?? 0) > KEPT) res.shouldKeepAlive = false;

  // Node ends a connection with `destroySoon()` once its last response is out: after this one, that waits.
  let last = false;
  const { destroySoon } = socket;
  socket.destroySoon = () => {
    last = true;
    if (!res.writableFinished) destroySoon.call(socket);
  };

  let answered = 0;
  let known = res.writableFinished;
  let settled = false;
  const settle = () => {
    if (settled) return;
    if (arrived && known && !last && !following.seen && (remainder ?? taken()) <= KEPT) {
      following.stop();
      socket.destroySoon = destroySoon;
      stop();
    } else if (performance.now() - answered > LINGER_MS) socket.destroy();
    else if (taken() > LINGER_BYTES) socket.pause().end();
    else if ((arrived && known) || following.seen || socket.readableEnded) setImmediate(endAndDrop, socket);
  };
  let looking: NodeJS.Timeout | undefined;
  const stop = () => {
    settled = true;
    clearInterval(looking);
    socket.off('close', stop);
  };
  // What comes without a pause after the answer went out was sent by someone who had not read it. A pause is a turn of
  // the event loop that reads nothing; the turn that read what came last does not count.
  let reading = false;
  const markReading = () => {
    if (reading) return;
    reading = true;
    setImmediate(() => {
      reading = false;
    });
  };
  const awaitPause = () => {
    const before = socket.bytesRead;
    setImmediate(() => {
      known ||= socket.bytesRead === before;
      if (known) settle();
      else if (!settled) awaitPause();
    });
  };
  const onAnswered = () => {
    if (socket.destroyed) return;
    answered = performance.now();
    looking = setInterval(settle, LOOK_EVERY_MS).unref();
    socket.on('close', stop);
    awaitPause();
  };
  markReading();
  if (res.writableFinished) onAnswered();
  else res.on('finish', () => (reading ? setImmediate(onAnswered) : onAnswered()));

  req.push = (chunk) => {
    markReading();
    if (chunk === null) arrived = true;
    if (arrived && answered > 0) settle();
    return taken() <= LINGER_BYTES;
  };
  // The stream ends for its readers only: IncomingMessage's own would take the connection with it.
  req._destroy = (error, callback) => callback(error);
  req.complete = true;
  req.destroy();
  socket.resume();
}

/** What still comes in is not even parsed. */
function endAndDrop(socket: Socket): void {
  socket.removeAllListeners('data').on('data', () => {});
  socket.resume().end();
}
