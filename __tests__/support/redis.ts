import { type ChildProcess, execFileSync, fork, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import net, { type AddressInfo } from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import { Redis } from 'ioredis';

/** Redis servers, services and wires of the tests' own, on free ports, gone when the test process is. */
const running = new Set<ChildProcess>();
process.on('exit', () => {
  for (const child of running) child.kill('SIGKILL');
});

function keep(child: ChildProcess): ChildProcess {
  running.add(child);
  child.once('exit', () => running.delete(child));
  return child;
}

/** Ends a process, one that was stopped as well, and waits for its end. */
export async function end(child: ChildProcess, signal: NodeJS.Signals = 'SIGKILL'): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const gone = once(child, 'exit');
  child.kill(signal);
  await gone;
}

function hasRedis(): boolean {
  try {
    execFileSync('redis-server', ['--version'], { stdio: 'ignore' });
    return true;
  } catch {
    console.log('Skipped: no redis-server on the PATH (apt-get install redis-server).');
    return false;
  }
}

/** Where Redis is not installed, what needs it is skipped. */
export const describeWithRedis = hasRedis() ? describe : describe.skip;

export class TestRedis {
  readonly port: number;
  readonly #args: string[];
  readonly #folder = mkdtempSync(path.join(os.tmpdir(), 'redis-'));
  #child!: ChildProcess;

  private constructor(port: number, args: string[]) {
    this.port = port;
    this.#args = args;
  }

  static async start(...args: string[]): Promise<TestRedis> {
    const redis = new TestRedis(await freePort(), args);
    await redis.restart();
    return redis;
  }

  get url(): string {
    return `redis://127.0.0.1:${this.port}`;
  }

  async restart(): Promise<void> {
    const own = ['--port', String(this.port), '--bind', '127.0.0.1', '--save', '', '--dir', this.#folder];
    this.#child = keep(spawn('redis-server', [...own, ...this.#args], { stdio: 'ignore' }));
    await this.ask((client) => client.ping());
  }

  kill(): Promise<void> {
    return end(this.#child);
  }

  signal(signal: NodeJS.Signals): void {
    this.#child.kill(signal);
  }

  async ask<T>(question: (client: Redis) => Promise<T>): Promise<T> {
    const client = new Redis(this.port, '127.0.0.1', { retryStrategy: () => 20, maxRetriesPerRequest: null });
    client.on('error', () => {});
    try {
      return await question(client);
    } finally {
      client.disconnect();
    }
  }

  async stop(): Promise<void> {
    await this.kill();
    rmSync(this.#folder, { recursive: true, force: true });
  }
}

async function freePort(): Promise<number> {
  const server = net.createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, 'close');
  return port;
}

const FIXTURES = path.join(__dirname, '..', 'bullmq-fixtures');
export const tasksUrl = pathToFileURL(path.join(FIXTURES, 'tasks.mjs'));

/** A process that runs one of the fixtures and says when it is ready. */
export async function startProcess(file: string, options: object, execArgv: string[] = []): Promise<ChildProcess> {
  const child = keep(
    fork(path.join(FIXTURES, file), [JSON.stringify(options)], {
      execArgv,
      stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
    }),
  );
  const ended = once(child, 'exit').then(([code, signal]) => {
    throw new Error(`${file} ended with ${code ?? signal} before it was ready`);
  });
  ended.catch(() => {});
  await Promise.race([once(child, 'message'), ended]);
  return child;
}

/** What else it says. */
export async function said(child: ChildProcess): Promise<unknown> {
  const [message] = await once(child, 'message');
  return message;
}

/** A wire to Redis that can be cut and made to swallow what goes through it. */
export class Wire {
  /** Nothing comes through, and nobody is told. */
  isHole = false;
  /** Cuts the connection on which such a request goes, in place of its answer. */
  losesAnswerTo: string | undefined;
  cuts = 0;
  readonly #server: net.Server;
  readonly #sockets = new Set<net.Socket>();

  private constructor(port: number) {
    this.#server = net.createServer((near) => this.#join(near, net.connect(port, '127.0.0.1')));
  }

  static async to(port: number): Promise<Wire> {
    const wire = new Wire(port);
    wire.#server.listen(0, '127.0.0.1');
    await once(wire.#server, 'listening');
    return wire;
  }

  get url(): string {
    return `redis://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  #join(near: net.Socket, far: net.Socket): void {
    let losesAnswer = false;
    near.on('data', (data) => {
      losesAnswer ||= this.losesAnswerTo !== undefined && data.includes(this.losesAnswerTo);
      this.#pass(data, far);
    });
    far.on('data', (data) => {
      if (!losesAnswer) return this.#pass(data, near);
      this.cuts++;
      near.destroy();
    });
    for (const [one, other] of [
      [near, far],
      [far, near],
    ] as const) {
      this.#sockets.add(one);
      one.on('error', () => {});
      one.on('close', () => {
        this.#sockets.delete(one);
        if (!this.isHole) other.destroy();
      });
    }
  }

  #pass(data: Buffer, to: net.Socket): void {
    if (!this.isHole && !to.destroyed) to.write(data);
  }

  cut(): void {
    for (const socket of this.#sockets) socket.destroy();
  }

  close(): void {
    this.cut();
    this.#server.close();
  }
}

/** How a call ended, and after how long. */
export async function outcomeOf(call: Promise<unknown>) {
  const since = performance.now();
  const ms = () => performance.now() - since;
  try {
    return { value: await call, code: undefined, ms: ms() };
  } catch (error) {
    return { value: undefined, code: (error as { code?: string }).code ?? (error as Error).message, ms: ms() };
  }
}

/** What tasks have written, line by line. */
export function linesOf(file: string): string[] {
  try {
    return readFileSync(file, 'utf8').split('\n').filter(Boolean);
  } catch {
    return [];
  }
}
