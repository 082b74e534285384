import type { Server } from 'node:http';
import type { Socket } from 'node:net';

interface Ignoring {
  /** Something followed, so that nobody knows any more what the client takes for what. */
  seen: boolean;
  stop(): void;
}

const ignoringOn = new WeakMap<Socket, Ignoring>();

/**
 * Until stopped, what follows on this connection is not taken for a request: a client that sends one before it had
 * the answer to an abandoned body did not write it in the knowledge of where that body ends.
 */
export function ignorePipelined(socket: Socket): Ignoring {
  // Node sets it on every connection of an HTTP server, for its own listeners.
  filterRequestsOf((socket as Socket & { server: Server }).server);
  const ignoring = { seen: false, stop: () => void ignoringOn.delete(socket) };
  ignoringOn.set(socket, ignoring);
  return ignoring;
}

/** Everything by which a server hands on what came in on a connection; all begin with the request but the last. */
const HANDED_ON = ['request', 'checkContinue', 'checkExpectation', 'upgrade', 'connect', 'dropRequest', 'clientError'];

const filtered = new WeakSet<Server>();

function filterRequestsOf(server: Server): void {
  if (filtered.has(server)) return;
  filtered.add(server);
  const emit = server.emit as (event: string, ...args: unknown[]) => boolean;
  server.emit = function emitUnlessIgnored(event: string, ...args: unknown[]): boolean {
    if (!HANDED_ON.includes(event)) return emit.call(this, event, ...args);
    const socket = event === 'clientError' ? args[1] : (args[0] as { socket: unknown }).socket;
    const ignoring = ignoringOn.get(socket as Socket);
    if (ignoring === undefined) return emit.call(this, event, ...args);
    ignoring.seen = true;
    return true;
  };
}
