import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import { awaitsContinue, ignoreRequestsOn } from './connection';

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
 * the connection lingers: it goes on reading, within bounds, and is closed when the body is over or the bounds are met.
 *
 * @param remainder bytes still to come; `undefined` when unknown
 */
export function abandonBody(req: IncomingMessage, res: ServerResponse, remainder?: number): void {
  if (req.complete) return;
  const { socket } = req;
  const start = socket.bytesRead;
  const taken = () => socket.bytesRead - start;
  let arrived = false;

  const unexpected = ignoreRequestsOn(socket);
  if ((remainder ?? 0) > KEPT || awaitsContinue(req)) res.setHeader('Connection', 'close');
  const closing = holdClose(socket);

  let answered = 0;
  const settle = () => {
    const over = arrived && !unexpected.seen;
    if (over && !closing.asked && taken() <= KEPT) closing.release();
    else if (over || taken() > LINGER_BYTES || performance.now() - answered > LINGER_MS) closing.close();
    else return;
    stop();
  };
  const stop = () => {
    clearInterval(looking);
    unexpected.stop();
    socket.off('close', stop);
  };
  let looking: NodeJS.Timeout | undefined;
  socket.on('close', stop);
  const onAnswered = () => {
    answered = performance.now();
    looking = setInterval(settle, LOOK_EVERY_MS).unref();
    settle();
  };
  // What was read together with the end of the body was sent before the client could have the answer.
  res.on('finish', () => setImmediate(onAnswered));

  req.push = (chunk) => {
    if (chunk === null) arrived = true;
    if (arrived && answered > 0) settle();
    return true;
  };
  // The stream ends for its readers only: IncomingMessage's own would take the connection with it.
  req._destroy = (error, callback) => callback(error);
  req.complete = true;
  req.destroy();
  socket.resume();
}

/** Node ends a connection with `destroySoon()` once its last response is out; here that waits. */
function holdClose(socket: Socket) {
  const { destroySoon } = socket;
  const state = {
    asked: false,
    release() {
      socket.destroySoon = destroySoon;
    },
    close() {
      state.release();
      socket.destroySoon();
    },
  };
  socket.destroySoon = () => {
    state.asked = true;
  };
  return state;
}
