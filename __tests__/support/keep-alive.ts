import { subscribe, unsubscribe } from 'node:diagnostics_channel';
import { once } from 'node:events';
import http from 'node:http';
import { type AddressInfo, connect, type Socket } from 'node:net';
import express5 from 'express';
import express4 from 'express4';

export const expresses = [
  ['Express 5', express5],
  ['Express 4', express4 as unknown as typeof express5],
] as const;

const cleanUps: (() => unknown)[] = [];

/** For `afterEach`: ends what the test started. */
export async function cleanUp(): Promise<void> {
  for (const end of cleanUps.splice(0).reverse()) await end();
}

export async function serve(app: http.RequestListener): Promise<{ port: number; server: http.Server }> {
  const server = http.createServer(app).listen(0);
  await once(server, 'listening');
  cleanUps.push(() => {
    server.closeAllConnections();
    return new Promise((closed) => server.close(closed));
  });
  return { port: (server.address() as AddressInfo).port, server };
}

export interface Answer {
  readonly status: number;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string;
  readonly bytes: Buffer;
}

/** One connection, kept alive, on which every byte counts: one too many and the next answer cannot be read. */
export class Connection {
  readonly socket: Socket;
  readonly closed: Promise<unknown>;
  #unread = Buffer.alloc(0);
  #over = false;
  #wake = () => {};

  private constructor(socket: Socket) {
    this.socket = socket;
    socket.on('data', (chunk: Buffer) => {
      this.#unread = Buffer.concat([this.#unread, chunk]);
      this.#wake();
    });
    socket.on('error', () => {});
    this.closed = new Promise((resolve) => {
      socket.on('close', () => {
        this.#over = true;
        this.#wake();
        resolve(undefined);
      });
    });
    cleanUps.push(() => socket.destroy());
  }

  static async open(port: number): Promise<Connection> {
    const socket = connect(port, '127.0.0.1');
    await once(socket, 'connect');
    return new Connection(socket);
  }

  send(method: string, path: string, headers: Record<string, string | number> = {}, body = ''): void {
    const lines = Object.entries({ Host: 'localhost', ...headers }).map(([name, value]) => `${name}: ${value}\r\n`);
    this.socket.write(`${method} ${path} HTTP/1.1\r\n${lines.join('')}\r\n${body}`);
  }

  /** The next answer; rejects when the connection ends before it is whole. */
  async answer({ head = false } = {}): Promise<Answer> {
    for (;;) {
      const parsed = parse(this.#unread, head);
      if (parsed !== undefined) {
        this.#unread = this.#unread.subarray(parsed.length);
        return parsed.answer;
      }
      if (this.#over) throw new Error(`connection over after ${JSON.stringify(this.unread)}`);
      await this.arrival();
    }
  }

  /** More has arrived, or the connection is over. */
  arrival(): Promise<void> {
    return new Promise((resolve) => {
      this.#wake = resolve;
    });
  }

  get unread(): string {
    return this.#unread.toString('latin1');
  }

  async get(path: string, headers?: Record<string, string>): Promise<Answer> {
    this.send('GET', path, headers);
    return this.answer();
  }
}

function parse(bytes: Buffer, headOnly: boolean): { answer: Answer; length: number } | undefined {
  const text = bytes.toString('latin1');
  if (text !== '' && !'HTTP/1.1 '.startsWith(text.slice(0, 9))) throw new Error(`stray bytes: ${JSON.stringify(text)}`);
  const end = text.indexOf('\r\n\r\n');
  if (end < 0) return undefined;
  const [statusLine = '', ...lines] = text.slice(0, end).split('\r\n');
  const headers = Object.fromEntries(
    lines.map((line) => [line.slice(0, line.indexOf(':')).toLowerCase(), line.slice(line.indexOf(':') + 1).trim()]),
  );
  const found = headOnly ? { body: '', length: 0 } : bodyIn(text.slice(end + 4), headers);
  if (found === undefined) return undefined;
  const content = Buffer.from(found.body, 'latin1');
  const answer = { status: Number(statusLine.split(' ')[1]), headers, body: content.toString(), bytes: content };
  return { answer, length: end + 4 + found.length };
}

function bodyIn(text: string, headers: Record<string, string>): { body: string; length: number } | undefined {
  const length = Number(headers['content-length'] ?? 0);
  if (headers['transfer-encoding'] === undefined) {
    return text.length < length ? undefined : { body: text.slice(0, length), length };
  }
  let body = '';
  for (let at = 0; ; ) {
    const line = text.indexOf('\r\n', at);
    if (line < 0) return undefined;
    const size = Number.parseInt(text.slice(at, line), 16);
    if (text.length < line + 2 + size + 2) return undefined;
    body += text.slice(line + 2, line + 2 + size);
    at = line + 2 + size + 2;
    if (size === 0) return { body, length: at };
  }
}

/** What is published on a diagnostics channel until the test ends. */
export function messagesOn(name: string): { readonly all: any[]; readonly first: Promise<any> } {
  const all: unknown[] = [];
  const { open, opened: first } = gate<unknown>();
  const listen = (message: unknown) => {
    all.push(message);
    open(message);
  };
  subscribe(name, listen);
  cleanUps.push(() => unsubscribe(name, listen));
  return { all, first };
}

/** A promise that is resolved from outside. */
export function gate<T = void>() {
  let open!: (value: T) => void;
  const opened = new Promise<T>((resolve) => {
    open = resolve;
  });
  return { open, opened };
}

/** Resolves once `signal` has aborted, with its reason. */
export function abortOf(signal: AbortSignal): Promise<any> {
  if (signal.aborted) return Promise.resolve(signal.reason);
  return new Promise((resolve) => {
    signal.addEventListener('abort', () => resolve(signal.reason), { once: true });
  });
}
