import type { Redis, RedisOptions } from 'ioredis';
import { missingPeer } from '../errors';
import { invalid } from '../options';
import { namesOf, SILENCE_MS } from './protocol';

/** A URL such as `redis://localhost:6379` or `rediss://…`, or the options of ioredis. */
export type Connection = string | URL | RedisOptions;

/** Both are optional peers: whoever does without other machines need not install them. */
export function loadPeers() {
  try {
    const { Redis } = require('ioredis') as typeof import('ioredis');
    const { Queue, Worker } = require('bullmq') as typeof import('bullmq');
    return { Redis, Queue, Worker };
  } catch (cause) {
    const { code, message } = cause as NodeJS.ErrnoException;
    const name = /^Cannot find module '(ioredis|bullmq)'/.exec(message)?.[1];
    throw code === 'MODULE_NOT_FOUND' && name !== undefined ? missingPeer(name, cause) : cause;
  }
}

/** The options that both sides have to agree on. */
export interface MeetingOptions {
  /**
   * Where Redis is: a URL such as `redis://localhost:6379`, or the options of ioredis. Never a ready client: the
   * connections made here differ in what they do after a failure, and must not send again what was lost.
   */
  readonly connection: Connection;
  /** The name under which pools and services meet. Default `'express-unblock'`. */
  readonly queue?: string | undefined;
  /** Services of another version are never asked. Default: none, which is a version of its own. */
  readonly version?: string | undefined;
}

const DEFAULT_QUEUE = 'express-unblock';

/** @returns the names in Redis */
export function parseMeeting(who: string, { connection, queue = DEFAULT_QUEUE, version }: MeetingOptions) {
  parseConnection(who, connection);
  if (version !== undefined) parseName(who, 'version', version);
  return namesOf(parseName(who, 'queue', queue), version);
}

function parseName(who: string, option: string, name: unknown): string {
  if (typeof name === 'string' && /^[^:{}\s]+$/.test(name)) return name;
  throw invalid(who, option, 'a name without ":", braces and spaces', name);
}

function parseConnection(who: string, connection: unknown): { url?: string; options: RedisOptions } {
  const url = connection instanceof URL ? connection.href : connection;
  if (typeof url === 'string' && /^rediss?:\/\/./.test(url)) return { url, options: {} };
  if (!isPlainObject(url)) {
    throw invalid(who, 'connection', 'a URL such as "redis://localhost:6379" or options of ioredis', connection);
  }
  if (url.keyPrefix)
    throw invalid(who, 'connection', 'without a keyPrefix, which BullMQ does not support', url.keyPrefix);
  return { options: url };
}

function isPlainObject(value: unknown): value is RedisOptions {
  if (typeof value !== 'object' || value === null) return false;
  const prototype = Object.getPrototypeOf(value);
  return prototype === null || Object.getPrototypeOf(prototype) === null;
}

/** Common to all connections. By default, ioredis 6 speaks RESP3, whose answers may have other shapes than those of ioredis 5. */
const COMMON = { connectTimeout: SILENCE_MS, protocol: 2, replyMapping: 'legacy' } as const;

export function connect(connection: unknown, own: RedisOptions): Redis {
  const { Redis } = loadPeers();
  const { url, options } = parseConnection('connection', connection);
  const all = { ...options, ...own, ...COMMON };
  const redis = url === undefined ? new Redis(all) : new Redis(url, all);
  // Each failed attempt to connect emits an error here. Its effect is a missing answer.
  redis.on('error', () => {});
  return redis;
}

/** After a connection was lost; the first attempt comes soon, and none later than a second after the one before. */
export function reconnectDelay(attempt: number): number {
  return Math.min(50 * 2 ** Math.min(attempt, 5), 1000);
}

/**
 * A connection that keeps no process alive, whether it is up or waits for its next attempt. It sends nothing twice and
 * holds nothing back: a job that is added again, since the answer was lost, would run twice.
 *
 * @returns with when the last byte came in, and what ends it
 */
export function connectInBackground(connection: unknown, own: RedisOptions) {
  const redis = connect(connection, {
    ...own,
    autoResendUnfulfilledCommands: false,
    maxRetriesPerRequest: 0,
    retryStrategy: () => null,
  });
  let attempts = 0;
  let ended = false;
  let heardAt = performance.now();
  redis.on('connect', () => {
    redis.stream.unref();
    redis.stream.on('data', () => {
      heardAt = performance.now();
    });
  });
  redis.on('ready', () => {
    attempts = 0;
  });
  redis.on('end', () => {
    if (!ended) setTimeout(() => ended || redis.connect().catch(() => {}), reconnectDelay(attempts++)).unref();
  });
  const end = () => {
    ended = true;
    redis.disconnect();
  };
  return { redis, heardAt: () => heardAt, end };
}

/** How much a measurement of Redis's clock is trusted less with each one after. */
const FADING_MS = 0.1;

/**
 * What a connection knows of its Redis: whether it answers, which run of it that is, and what time it is there. No
 * machine's own clock counts, only the time that has passed since.
 */
export class RedisLink {
  readonly redis: Redis;
  state: 'opening' | 'open' | 'away' = 'opening';
  /** Another run may have forgotten the last things that were said to this one. */
  run: string | undefined;
  /** The reason why it is away. */
  failure: unknown;
  /** When the last question that was answered was asked. */
  heardAt = performance.now();
  #offset = Number.NaN;
  #error = Number.POSITIVE_INFINITY;
  #connections = 0;
  readonly #onOpen: () => Promise<void>;
  readonly #watchers = new Set<() => void>();

  /** @param onOpen what has to be done on each new connection before anybody else uses it */
  constructor(redis: Redis, onOpen: () => Promise<void>) {
    this.redis = redis;
    this.#onOpen = onOpen;
    redis.on('error', (error) => {
      this.failure = error;
    });
    redis.on('ready', () => void this.open());
    redis.on('close', () => {
      this.#connections++;
      this.run = undefined;
      this.#change('away');
    });
  }

  get isOpen(): boolean {
    return this.state === 'open';
  }

  get now(): number {
    return this.at(performance.now());
  }

  /** A moment of `performance.now()`, on the clock of Redis. */
  at(moment: number): number {
    return moment + this.#offset;
  }

  /** Resolves once it is known whether Redis is there; nothing where it is known. */
  get settled(): Promise<void> | undefined {
    return this.state === 'opening' ? this.#until(() => this.state !== 'opening') : undefined;
  }

  opened(): Promise<void> {
    return this.#until(() => this.isOpen);
  }

  async open(): Promise<void> {
    const connection = ++this.#connections;
    this.#change('opening');
    try {
      this.#error = Number.POSITIVE_INFINITY;
      const [server] = await Promise.all([this.redis.info('server'), this.beat()]);
      if (connection !== this.#connections) return;
      this.run = /^run_id:(\w+)/m.exec(server)?.[1] ?? '';
      await this.#onOpen();
      if (connection === this.#connections) this.#change('open');
    } catch (error) {
      if (connection !== this.#connections) return;
      this.failure = error;
      this.#change('away');
    }
  }

  /** Hears whether Redis is there, and what time it is there. */
  async beat(): Promise<void> {
    const askedAt = performance.now();
    const [seconds, microseconds] = await this.redis.time();
    this.heardAt = Math.max(this.heardAt, askedAt);
    const error = (performance.now() - askedAt) / 2;
    const offset = Number(seconds) * 1000 + Number(microseconds) / 1000 - (askedAt + error);
    // The quicker the answer, the better. What no delay explains is a clock that was set, or that of another Redis.
    const isBetter = error <= this.#error || Math.abs(offset - this.#offset) > error + this.#error;
    this.#offset = isBetter ? offset : this.#offset;
    this.#error = isBetter ? error : this.#error + FADING_MS;
  }

  #change(state: RedisLink['state']): void {
    this.state = state;
    const watchers = [...this.#watchers];
    this.#watchers.clear();
    for (const watcher of watchers) watcher();
  }

  async #until(condition: () => boolean): Promise<void> {
    while (!condition()) await new Promise<void>((resolve) => this.#watchers.add(resolve));
  }
}
