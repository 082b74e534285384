import { subscribe } from 'node:diagnostics_channel';
import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';

/**
 * What Node decides before Express runs, on any server and without the user wiring anything to it: the public channel
 * `http.server.request.start` tells of each request before its listeners hear of it.
 */
subscribe('http.server.request.start', (message) => {
  const { request, server } = message as { request: IncomingMessage; server: Server };
  if (request.headers.expect !== undefined) answerContinueOnRead(server);
  const ignoring = ignoringOn.get(request.socket);
  if (ignoring === undefined) return;
  ignoring.seen = true;
  ignore(server, request);
});

const continuing = new WeakSet<Server>();
const awaiting = new WeakSet<IncomingMessage>();

/** The client waits for `100 Continue` and has not been told to go ahead. */
export function awaitsContinue(req: IncomingMessage): boolean {
  return awaiting.has(req);
}

/**
 * By itself Node writes `100 Continue` before the request is looked at (RFC 9110, section 10.1.1). With this listener
 * it goes out when the body is first read, so that a refusal can come instead. The user's own listener wins.
 */
function answerContinueOnRead(server: Server): void {
  if (continuing.has(server)) return;
  continuing.add(server);
  server.on('checkContinue', (req: IncomingMessage, res: ServerResponse) => {
    if (server.listenerCount('checkContinue') > 1) return;
    const { shouldKeepAlive } = res;
    const read = req._read;
    awaiting.add(req);
    // Answered unread, the client may send the body or not: what follows could be taken for either.
    res.shouldKeepAlive = false;
    req._read = function firstRead(size) {
      req._read = read;
      if (awaiting.delete(req) && !res.headersSent) {
        res.shouldKeepAlive = shouldKeepAlive;
        res.writeContinue();
      }
      read.call(this, size);
    };
    server.emit('request', req, res);
  });
}

interface Ignoring {
  seen: boolean;
  stop(): void;
}

const ignoringOn = new WeakMap<Socket, Ignoring>();

/**
 * Until stopped, what follows on this connection is not taken for a request: a client that sends one before it had
 * the answer to an abandoned body did not write it in the knowledge of where that body ends.
 */
export function ignoreRequestsOn(socket: Socket): Ignoring {
  const ignoring = { seen: false, stop: () => void ignoringOn.delete(socket) };
  ignoringOn.set(socket, ignoring);
  return ignoring;
}

const ignored = new WeakSet<object>();
const filtered = new WeakSet<Server>();

function ignore(server: Server, req: IncomingMessage): void {
  ignored.add(req);
  if (filtered.has(server)) return;
  filtered.add(server);
  const { emit } = server;
  server.emit = function (event: string, ...args: unknown[]) {
    if (typeof args[0] === 'object' && args[0] !== null && ignored.has(args[0])) return true;
    return (emit as (event: string, ...args: unknown[]) => boolean).call(this, event, ...args);
  };
}
