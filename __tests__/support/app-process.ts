import { spawn } from 'node:child_process';
import { once } from 'node:events';
import http from 'node:http';
import { createInterface } from 'node:readline';

/** An app in a process of its own, run as its users run it: `node file`, with a port of the system's choice. */
export interface AppProcess {
  readonly url: string;
  /** Resolves with the next line that the app prints, `undefined` once it has ended. */
  nextLine(): Promise<string | undefined>;
  kill(signal: NodeJS.Signals): void;
  /** Resolves with its exit code, or the signal that ended it. */
  readonly exited: Promise<number | NodeJS.Signals>;
}

/** Starts an app and waits until it prints its address. */
export async function startApp(
  file: string,
  nodeFlags: string[] = [],
  env: NodeJS.ProcessEnv = {},
): Promise<AppProcess> {
  const child = spawn(process.execPath, [...nodeFlags, file], {
    env: { ...process.env, PORT: '0', ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let complaints = '';
  child.stderr.on('data', (text) => {
    complaints += text;
  });
  const exited = once(child, 'exit').then(([code, signal]) => code ?? signal);
  const lines = createInterface(child.stdout)[Symbol.asyncIterator]();
  const nextLine = async () => (await lines.next()).value;

  const url = /http:\/\/localhost:\d+/.exec((await nextLine()) ?? '')?.[0];
  if (url === undefined) {
    child.kill('SIGKILL');
    throw new Error(`${file} ended with ${await exited} instead of printing its address:\n${complaints}`);
  }
  return { url, nextLine, kill: (signal) => void child.kill(signal), exited };
}

export interface Answer {
  readonly status: number | undefined;
  readonly headers: http.IncomingHttpHeaders;
  readonly body: string;
  readonly bytes: Buffer;
}

/** A client with one connection, kept alive: its requests reach the server in the order they were made. */
export class Client {
  readonly #agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
  readonly #url: string;

  constructor(url: string) {
    this.#url = url;
  }

  get(path: string): Promise<Answer> {
    return this.send('GET', path).answer;
  }

  /** `sent` resolves when the operating system has the whole request. */
  send(method: string, path: string, body?: string | object | Buffer, headers: http.OutgoingHttpHeaders = {}) {
    const json = typeof body === 'object' && !(body instanceof Uint8Array);
    const req = http.request(new URL(path, this.#url), {
      agent: this.#agent,
      method,
      headers: { 'Content-Type': json ? 'application/json' : 'text/plain', ...headers },
    });
    const sent = once(req, 'finish');
    const answer = once(req, 'response').then(async ([res]) => {
      const bytes = Buffer.concat(await res.toArray());
      return { status: res.statusCode, headers: res.headers, body: bytes.toString(), bytes };
    });
    req.end(json ? JSON.stringify(body) : (body as string | Buffer | undefined));
    return { sent, answer };
  }

  post(path: string, body: string | object): Promise<Answer> {
    return this.send('POST', path, body).answer;
  }

  close(): void {
    this.#agent.destroy();
  }
}
