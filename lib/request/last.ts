import type { ServerResponse } from 'node:http';

const last = new WeakSet<ServerResponse>();

/** Its connection ends with this response. */
export function isLast(res: ServerResponse): boolean {
  return last.has(res) || !res.shouldKeepAlive;
}

/**
 * Makes a response the last on its connection, whatever the app says: Node lets a `Connection` header, which many set
 * for a stream of events, outweigh `shouldKeepAlive`.
 *
 * @returns takes it back, which helps until the head is made
 */
export function makeLast(res: ServerResponse): () => void {
  const { shouldKeepAlive } = res;
  const writeHead = res.writeHead as (...args: unknown[]) => ServerResponse;
  last.add(res);
  res.shouldKeepAlive = false;
  res.writeHead = function writeLastHead(this: ServerResponse, ...args: unknown[]) {
    if (!last.has(res)) return writeHead.apply(this, args);
    if (!res.headersSent && res.hasHeader('Connection')) res.setHeader('Connection', 'close');
    return writeHead.apply(this, args.map(closing));
  } as typeof res.writeHead;
  return () => {
    if (res.headersSent) return;
    last.delete(res);
    res.shouldKeepAlive = shouldKeepAlive;
  };
}

const isConnection = (name: unknown): boolean => /^connection$/i.test(String(name));

/** Headers come as an object, as names and values in turn, or as pairs of them. */
function closing(headers: unknown): unknown {
  if (Array.isArray(headers)) {
    return headers.map((part, i) => (i % 2 === 1 && isConnection(headers[i - 1]) ? 'close' : closing(part)));
  }
  if (typeof headers !== 'object' || headers === null) return headers;
  return Object.fromEntries(
    Object.entries(headers).map(([name, value]) => [name, isConnection(name) ? 'close' : value]),
  );
}
