import { subscribe } from 'node:diagnostics_channel';
import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import { abandonBody } from './body';
import { makeLast } from './last';

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

const awaiting = new WeakSet<IncomingMessage>();

/** The client waits for `100 Continue` and has not been told to go ahead. */
export function awaitsContinue(req: IncomingMessage): boolean {
  return awaiting.has(req);
}

/** The `100` goes out when the body is first read, so that a refusal can come instead. */
function continueOnRead(this: Server, req: IncomingMessage, res: ServerResponse): void {
  if (this.listenerCount('checkContinue') > 0) return;
  const { _read: read } = req;
  const write = res.write as (...args: unknown[]) => boolean;
  const { flushHeaders } = res;
  awaiting.add(req);
  // Answered unread, the client may send the body or not: what follows could be taken for either.
  const keep = makeLast(res);
  res.prependListener('finish', () => {
    if (awaiting.has(req)) abandonBody(req, res);
  });

  let begun = false;
  const proceed = () => {
    if (begun || res.writableEnded || !awaiting.delete(req)) return;
    keep();
    // Behind a head that is made and waits for its first byte, Node refuses it from version 24 on.
    if (res.headersSent) res.socket?.write('HTTP/1.1 100 Continue\r\n\r\n');
    else res.writeContinue();
  };
  req._read = function firstRead(size) {
    req._read = read;
    proceed();
    read.call(this, size);
  };
  // An answer that begins and does not end may go on with what is read: behind its head it is too late for the `100`.
  // One that refused the body has destroyed the request.
  const begin = () => {
    if (res.statusCode < 400 && !req.destroyed) proceed();
    begun = true;
  };
  res.write = function writeBehindContinue(this: ServerResponse, ...args: unknown[]) {
    begin();
    return write.apply(this, args);
  } as typeof res.write;
  res.flushHeaders = function flushBehindContinue() {
    begin();
    flushHeaders.call(this);
  };
  this.emit('request', req, res);
}
