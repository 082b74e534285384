import { once } from 'node:events';
import http from 'node:http';
import { connect, type Socket } from 'node:net';
import { TLSSocket } from 'node:tls';
import express5 from 'express';
import express4 from 'express4';

export type Express = typeof express5;

/** For `describe.each`: everything holds on both. */
export const expressVersions: [string, Express][] = [
  ['Express 5', express5],
  ['Express 4', express4],
];

const servers = new Set<http.Server>();
const clients = new Set<Socket>();

/** Starts an app (or a server of the test's own) on a free port, or at another address; `closeAll` ends it. */
export async function serve(app: http.RequestListener | http.Server, at: number | string = 0): Promise<number> {
  const server = app instanceof http.Server || 'listen' in app ? (app as http.Server).listen(at) : undefined;
  const listening = server ?? http.createServer(app as http.RequestListener).listen(at);
  servers.add(listening);
  if (!listening.listening) await once(listening, 'listening');
  return (listening.address() as { port: number }).port;
}

/** For `afterEach`: nothing is left running. */
export async function closeAll(): Promise<void> {
  for (const socket of clients) socket.destroy();
  const closing = [...servers].map((server) => new Promise((resolve) => server.close(resolve)));
  for (const server of servers) server.closeAllConnections();
  clients.clear();
  servers.clear();
  await Promise.all(closing);
}

export interface Answer {
  status: number;
  headers: Record<string, string>;
  body: string;
}

export interface RawClient {
  readonly socket: Socket;
  /** Resolves once the bytes are handed to the operating system. */
  send(...parts: (string | Uint8Array)[]): Promise<void>;
  /** The next complete answer on the connection; rejects if the connection ends before there is one. */
  answer(): Promise<Answer>;
  /** How the connection ended: `'end'` for an orderly close, or the code of the error (`'ECONNRESET'`). */
  readonly closed: Promise<string>;
  /** What came in and was not taken by `answer()` yet. */
  rest(): string;
}

/** A client that writes what it is told to, byte for byte, and reads answers as they come. */
export async function connectRaw(to: number | Socket): Promise<RawClient> {
  const socket = typeof to === 'number' ? connect({ port: to, allowHalfOpen: true, noDelay: true }) : to;
  clients.add(socket);
  let unread = Buffer.alloc(0);
  let end: string | undefined;
  let wake = () => {};
  socket.on('data', (chunk) => {
    unread = Buffer.concat([unread, chunk]);
    wake();
  });
  const closed = new Promise<string>((resolve) => {
    const finish = (how: string) => {
      end ??= how;
      resolve(end);
      wake();
    };
    socket.on('end', () => finish('end'));
    socket.on('error', (error: NodeJS.ErrnoException) => finish(error.code ?? error.message));
    socket.on('close', () => finish('closed'));
  });
  await once(socket, socket instanceof TLSSocket ? 'secureConnect' : 'connect');

  return {
    socket,
    closed,
    send: (...parts) =>
      new Promise((resolve) => {
        socket.write(Buffer.concat(parts.map((part) => Buffer.from(part))), () => resolve());
      }),
    async answer() {
      for (;;) {
        const parsed = parseAnswer(unread);
        if (parsed !== undefined) {
          unread = unread.subarray(parsed.length);
          return parsed.answer;
        }
        if (end !== undefined) throw new Error(`connection over (${end}) after ${JSON.stringify(String(unread))}`);
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
      }
    },
    rest: () => unread.toString('latin1'),
  };
}

function parseAnswer(bytes: Buffer): { answer: Answer; length: number } | undefined {
  const text = bytes.toString('latin1');
  const headEnd = text.indexOf('\r\n\r\n');
  if (headEnd < 0) return undefined;
  const [statusLine = '', ...lines] = text.slice(0, headEnd).split('\r\n');
  const status = /^HTTP\/1\.1 (\d{3}) /.exec(statusLine)?.[1];
  if (status === undefined) throw new Error(`no answer: ${JSON.stringify(text.slice(0, 100))}`);
  const headers = Object.fromEntries(
    lines.map((line) => {
      const colon = line.indexOf(':');
      return [line.slice(0, colon).toLowerCase(), line.slice(colon + 1).trim()];
    }),
  );
  const start = headEnd + 4;
  // Of chunked answers the tests know the one that Node itself gives: the empty one.
  if (headers['transfer-encoding'] !== undefined) {
    const length = start + '0\r\n\r\n'.length;
    return bytes.length < length ? undefined : { answer: { status: Number(status), headers, body: '' }, length };
  }
  const length = Number(headers['content-length'] ?? 0);
  if (bytes.length < start + length) return undefined;
  const body = bytes.toString('utf8', start, start + length);
  return { answer: { status: Number(status), headers, body }, length: start + length };
}

/** The head of a request; `Host` is there already. */
export function head(method: string, path: string, headers: Record<string, string | number> = {}): string {
  const lines = Object.entries({ Host: 'localhost', ...headers }).map(([name, value]) => `${name}: ${value}\r\n`);
  return `${method} ${path} HTTP/1.1\r\n${lines.join('')}\r\n`;
}

/** One chunk of a chunked body; an empty one is the last. */
export function chunk(data: string | Uint8Array): Buffer {
  return Buffer.concat([Buffer.from(`${data.length.toString(16)}\r\n`), Buffer.from(data), Buffer.from('\r\n')]);
}

export const CHUNKED = { 'Transfer-Encoding': 'chunked' };
