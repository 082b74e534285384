import { fork, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync } from 'node:fs';
import net from 'node:net';
import path from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { Redis } from 'ioredis';

const running = new Set();
process.on('exit', () => {
  for (const child of running) child.kill('SIGKILL');
});

function keep(child) {
  running.add(child);
  child.once('exit', () => running.delete(child));
  return child;
}

export async function end(child, signal = 'SIGKILL') {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const gone = once(child, 'exit');
  child.kill(signal);
  await gone;
}

/** Starts `service.mjs` or `caller.mjs`, and waits until it is ready. */
export async function start(file, options) {
  const child = fork(fileURLToPath(new URL(file, import.meta.url)), [JSON.stringify(options)], {
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
  });
  keep(child);
  const isReady = await Promise.race([once(child, 'message').then(() => true), once(child, 'exit').then(() => false)]);
  return isReady ? child : start(file, options); // Where Redis was away for longer than it waits.
}

export class RedisServer {
  port;
  #args;
  #child;

  constructor(directory, isPersistent) {
    mkdirSync(directory, { recursive: true });
    const persistence = isPersistent ? ['--appendonly', 'yes', '--appendfsync', 'everysec'] : ['--save', ''];
    this.#args = ['--bind', '127.0.0.1', '--dir', path.resolve(directory), ...persistence];
  }

  get url() {
    return `redis://127.0.0.1:${this.port}`;
  }

  /** On the port that it had before, if it was killed. */
  async start() {
    this.port ??= await freePort();
    this.#child = keep(spawn('redis-server', ['--port', String(this.port), ...this.#args], { stdio: 'ignore' }));
    await this.ask((client) => client.ping());
  }

  kill() {
    return end(this.#child);
  }

  signal(signal) {
    this.#child.kill(signal);
  }

  async ask(question) {
    const client = new Redis(this.port, '127.0.0.1', { retryStrategy: () => 20, maxRetriesPerRequest: null });
    client.on('error', () => {});
    try {
      return await question(client);
    } finally {
      client.disconnect();
    }
  }
}

async function freePort() {
  const server = net.createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address();
  server.close();
  return port;
}

/** A wire to Redis that can be cut, slowed and made to swallow what goes through it. */
export class Wire {
  delayMs = 0;
  isHole = false;
  #server;
  #sockets = new Set();

  static async to(port) {
    const wire = new Wire();
    wire.#server = net.createServer((near) => wire.#join(near, net.connect(port, '127.0.0.1')));
    wire.#server.listen(0, '127.0.0.1');
    await once(wire.#server, 'listening');
    return wire;
  }

  get url() {
    return `redis://127.0.0.1:${this.#server.address().port}`;
  }

  #join(near, far) {
    for (const [one, other] of [
      [near, far],
      [far, near],
    ]) {
      // In order, however the delay changes on the way.
      let last = Promise.resolve();
      this.#sockets.add(one);
      one.on('data', (data) => {
        if (this.isHole) return;
        const delayed = wait(this.delayMs);
        last = last.then(() => delayed).then(() => other.destroyed || other.write(data));
      });
      one.on('error', () => {});
      one.on('close', () => {
        this.#sockets.delete(one);
        other.destroy();
      });
    }
  }

  cut() {
    for (const socket of this.#sockets) socket.destroy();
  }

  close() {
    this.cut();
    this.#server.close();
  }
}
