import { randomUUID } from 'node:crypto';
import type { Job, Worker } from 'bullmq';
import type { Redis } from 'ioredis';
import { callTimedOut, clientClosed, noSuchModule, poolClosed, tooLarge, workerDied } from '../errors';
import { parseModule } from '../offload';
import { checkOptions, invalid, parseChoice } from '../options';
import type { Call, Task } from '../pool/call';
import { type PoolOptions, parsePoolOptions } from '../pool/options';
import type { Pool } from '../pool/pool';
import { type CloseOptions, parseGrace, type TaskPool } from '../pool/pools';
import { RunTimes } from '../pool/run-times';
import type { PoolStats } from '../pool/stats';
import { packThrown, unpackThrown } from '../wire';
import { currentTask } from '../worker/current-task';
import {
  BEAT_MS,
  bytesOf,
  CALLER_LIFE_MS,
  type CallData,
  EXPIRES_AT,
  LOCK_MS,
  moduleName,
  packReply,
  type ReplyKind,
  SERVICE_LIFE_MS,
  SIGN_LIFE_MS,
  SILENCE_MS,
  unpackMove,
} from './protocol';
import { connect, loadPeers, type MeetingOptions, parseMeeting, RedisLink, reconnectDelay } from './redis';

export interface ServeOptions
  extends MeetingOptions,
    Pick<PoolOptions, 'workers' | 'spare' | 'memory' | 'env' | 'execArgv'> {
  /**
   * The modules that may be called, and nothing else: file URLs or absolute paths. A module is known by the name of its
   * package and its path within it, such as `my-app/lib/tasks.js`; where that differs from the path on the calling side,
   * an object says which name stands for which file.
   */
  readonly modules: readonly (URL | string)[] | Readonly<Record<string, URL | string>>;
  /** As for `offload`. Default `'kill'`. */
  readonly reclaim?: 'interrupt' | 'kill' | undefined;
}

/** Worker processes of this machine at the service of all pools that `connectPool` has made for the same queue. */
export interface Service {
  /** Resolves once it takes calls: its workers are up, have imported all modules, and Redis is there. */
  ready(): Promise<void>;
  /** As of a pool's; `queued` are calls that wait here, and not those that wait in Redis. */
  stats(): PoolStats;
  /**
   * Takes no more calls and lets those begun finish for up to `grace` (default 5 s). The callers of the rest are told
   * `ERR_UNBLOCK_WORKER_DIED`. Resolves when no worker and no connection is left. A second call waits for the first.
   */
  close(options?: CloseOptions): Promise<void>;
  [Symbol.asyncDispose](): Promise<void>;
}

const OPTIONS = [
  'connection',
  'queue',
  'version',
  'modules',
  'reclaim',
  'workers',
  'spare',
  'memory',
  'env',
  'execArgv',
];

/** A dead service's jobs are found within this time after the end of their locks. */
const STALLED_CHECK_MS = 500;
/** BullMQ's own patience, in seconds, with an empty queue, and, in milliseconds, after a failure. */
const DRAIN_DELAY = 2;
const RETRY_MS = 500;
/** What Redis said of a call is true for about as long: a process that was stopped meanwhile asks again. */
const FRESH_MS = 1000;
/** Only the last progress in each such time is sent. */
const PROGRESS_MS = 50;
/** Shorter calls are told of with their result only. */
const BEGAN_MS = 25;
/** The caller ends its calls by its own clock. If the service does not hear of that, it ends them so much later. */
const SLACK_MS = 1000;
/** How long `close()` waits for Redis beyond its grace. */
const LEAVE_MS = 3000;

type Stop = 'given up' | 'lost';

/** A call that this service holds; whether it may begin may not be known yet. */
class ServedCall {
  readonly data: CallData;
  expiresAt: number;
  stop: Stop | undefined;
  local: Call | undefined;
  #replies = 0;
  readonly #controller = new AbortController();

  constructor(data: CallData) {
    this.data = data;
    this.expiresAt = data.expiresAt;
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  /** The fields that all replies have. */
  nextFacts() {
    const { startedAt, endedAt = performance.now(), pid } = this.local ?? {};
    const number = ++this.#replies;
    return startedAt === undefined ? { number } : { number, runMs: endedAt - startedAt, pid: pid ?? 0 };
  }

  end(stop: Stop, reason: unknown): void {
    this.stop ??= stop;
    this.#controller.abort(reason);
  }
}

class QueueService implements Service {
  readonly #id = randomUUID();
  readonly #settings: ServeSettings;
  readonly #tasks = new Map<string, Task>();
  readonly #calls = new Map<string, ServedCall>();
  readonly #pool: TaskPool & Pick<Pool, 'whenIdle'>;
  readonly #link: RedisLink;
  readonly #subscriber: Redis;
  readonly #started: Promise<void>;
  #worker: Worker<CallData> | undefined;
  readonly #beating: NodeJS.Timeout;
  #isBeating = false;
  #isUp = false;
  /** The task was told that Redis is away. */
  #isWarned = false;
  /** Calls that have ended, whose workers are not back yet. */
  #held = 0;
  #closing: Promise<void> | undefined;

  constructor(settings: ServeSettings) {
    this.#settings = settings;
    const { connection, pool } = settings;
    const own = { maxRetriesPerRequest: null, retryStrategy: reconnectDelay, socketTimeout: SILENCE_MS };
    this.#link = new RedisLink(connect(connection, own), () => this.#announce());
    this.#subscriber = connect(connection, own);
    this.#pool = makePool(pool);
    this.#beating = setInterval(() => void this.#beat(), BEAT_MS);
    this.#started = this.#start();
  }

  async ready(): Promise<void> {
    if (this.#closing !== undefined) throw poolClosed();
    await this.#started;
  }

  stats(): PoolStats {
    return this.#pool.stats();
  }

  close(options?: CloseOptions): Promise<void> {
    const grace = parseGrace('service.close', options);
    this.#closing ??= this.#close(grace);
    return this.#closing;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #start(): Promise<void> {
    for (const url of this.#settings.modules.values()) this.#pool.accept({ kind: 'module', url });
    await this.#pool.ready();
    await this.#link.opened();
    this.#subscriber.on('message', (_channel, message) => this.#onMove(message));
    await this.#subscriber.subscribe(this.#settings.names.moves);
    if (this.#closing !== undefined) return;
    this.#worker = this.#makeWorker();
    await this.#worker.waitUntilReady();
    this.#isUp = true;
    await this.#announce();
  }

  #makeWorker(): Worker<CallData> {
    const { Worker } = loadPeers();
    const worker = new Worker<CallData>(this.#settings.names.queue, (job) => this.#process(job), {
      connection: this.#link.redis as never,
      concurrency: this.#settings.workers,
      lockDuration: LOCK_MS,
      stalledInterval: STALLED_CHECK_MS,
      maxStalledCount: 0, // By default a job whose service died is run again.
      drainDelay: DRAIN_DELAY,
      runRetryDelay: RETRY_MS,
      removeOnComplete: { count: 0 },
      removeOnFail: { count: 0 },
    });
    worker.on('error', () => {}); // Failed operations are repeated, and callers are told of lost calls.
    worker.on('lockRenewalFailed', (ids) => {
      for (const id of ids) this.#calls.get(id)?.end('lost', died());
    });
    // Whoever finds that another service has died tells the caller, whose id the call's begins with.
    worker.on('stalled', (id) => void this.#reply(id.slice(0, this.#id.length), id, 'lost'));
    return worker;
  }

  async #process(job: Job<CallData>): Promise<void> {
    const id = job.id as string;
    const call = new ServedCall(job.data);
    this.#calls.set(id, call);
    try {
      const verdict = await this.#judge(id, call);
      if (verdict === 'run') await this.#run(id, job.name, call);
      else if (verdict !== 'gone') await this.#reply(call.data.caller, id, verdict);
    } finally {
      this.#calls.delete(id);
    }
    if (call.local?.ending !== undefined && call.local.ending !== 'completed') await this.#awaitWorker();
  }

  /** Whether it may begin: Redis is asked at the last moment, with the answer no older than this process's sleep. */
  async #judge(id: string, call: ServedCall): Promise<'run' | 'gone' | 'unstarted' | 'stale'> {
    const { redis } = this.#link;
    const { caller, run } = call.data;
    for (;;) {
      await this.#link.opened();
      const askedAt = performance.now();
      const [[name, moved], lives] = await Promise.all([
        redis.hmget(this.#key(id), 'name', EXPIRES_AT),
        redis.pttl(this.#settings.names.replies(caller)),
      ]);
      if (typeof name !== 'string' || lives < 0) return 'gone';
      if (typeof moved === 'string') call.expiresAt = Number(moved);
      if (call.expiresAt === 0 || call.stop !== undefined) return 'gone';
      // Nobody knows whether a caller that has given no sign lately still waits for this.
      if (call.expiresAt <= this.#link.now || lives < CALLER_LIFE_MS - SIGN_LIFE_MS) return 'unstarted';
      if (performance.now() - askedAt > FRESH_MS || !this.#link.isOpen) continue;
      return this.#link.run === run ? 'run' : 'stale';
    }
  }

  async #run(id: string, name: string, call: ServedCall): Promise<void> {
    const { caller, module, maxBytes, args, endsAt } = call.data;
    const url = this.#settings.modules.get(module);
    if (url === undefined) return this.#reply(caller, id, 'failed', packThrown(noSuchModule(module)));
    const progress = new LatestOnly(PROGRESS_MS, (value) => this.#tellProgress(id, call, value));
    const limits = {
      timeout: Math.max(1, Math.ceil(endsAt - this.#link.now)) + SLACK_MS,
      request: undefined,
      signals: [call.signal],
      onProgress: (value: unknown) => progress.add(value),
    };
    const began = setTimeout(() => void this.#reply(caller, id, 'began', undefined, call), BEGAN_MS);
    try {
      const value = await this.#pool.submit(this.#taskOf(url, name), Buffer.from(args, 'base64'), limits, (local) => {
        call.local = local;
      });
      progress.flush();
      const body = bytesOf(value);
      if (body.byteLength > maxBytes) throw tooLarge({ limit: maxBytes, received: body.byteLength, measure: 'result' });
      await this.#reply(caller, id, 'completed', body, call);
    } catch (thrown) {
      progress.flush();
      if (call.stop === 'given up') return;
      if (call.stop === 'lost') await this.#reply(caller, id, 'lost', undefined, call);
      else await this.#reply(caller, id, call.local?.ending === 'died' ? 'died' : 'failed', packThrown(thrown), call);
    } finally {
      clearTimeout(began);
      progress.stop();
    }
  }

  #tellProgress(id: string, call: ServedCall, value: unknown): void {
    const { caller, maxBytes: limit } = call.data;
    const body = bytesOf(value);
    if (body.byteLength <= limit) void this.#reply(caller, id, 'progress', body, call);
    else call.local?.giveUp(tooLarge({ limit, received: body.byteLength, measure: 'progress' }), 'failed');
  }

  #taskOf(url: string, name: string): Task {
    const key = `${name} ${url}`;
    const definition = { kind: 'module' as const, name, url };
    const { reclaim } = this.#settings;
    const task = this.#tasks.get(key) ?? { id: this.#tasks.size + 1, definition, reclaim, times: new RunTimes() };
    this.#tasks.set(key, task);
    return task;
  }

  /** A caller that is gone has no stream any more, and none is made for it. */
  async #reply(caller: string, id: string, kind: ReplyKind, body?: Uint8Array, call?: ServedCall): Promise<void> {
    const fields = packReply(id, kind, { ...call?.nextFacts(), ...(body === undefined ? {} : { body }) });
    try {
      await this.#link.redis.call('XADD', this.#settings.names.replies(caller), 'NOMKSTREAM', '*', ...fields);
    } catch {
      // Redis cannot take it, as when its memory is full: with the job gone, the caller takes the call for lost.
    }
  }

  /** BullMQ hands out the next call where one has ended: a worker that was killed has to be replaced before. */
  async #awaitWorker(): Promise<void> {
    this.#held++;
    await this.#pool.whenIdle(() => this.#settings.workers - this.#calls.size - this.#held + 1);
    this.#held--;
  }

  #onMove(message: string): void {
    const move = unpackMove(message);
    const call = move && this.#calls.get(move.call);
    if (move === undefined || call === undefined) return; // Of another service.
    call.expiresAt = move.expiresAt;
    if (move.expiresAt === 0) call.end('given up', reasonOf(move.reason));
  }

  // Periodic work.

  async #beat(): Promise<void> {
    const silentMs = performance.now() - this.#link.heardAt;
    // By now its jobs are taken for lost, and their callers are told so.
    if (silentMs > LOCK_MS) for (const call of this.#calls.values()) call.end('lost', died());
    this.#warn(silentMs > SILENCE_MS);
    if (this.#isBeating || !this.#link.isOpen) return;
    this.#isBeating = true;
    try {
      // A question on a dead connection shows that it is dead.
      if (this.#subscriber.status === 'ready') this.#subscriber.ping().catch(() => {});
      await this.#announce();
      await this.#checkCalls();
    } catch {
      // The connection was lost; the next beat makes up for it.
    } finally {
      this.#isBeating = false;
    }
  }

  #warn(isAway: boolean): void {
    if (isAway && !this.#isWarned) {
      const { failure } = this.#link;
      const why = failure instanceof Error ? `: ${failure.message}` : '';
      process.emitWarning(`express-unblock: serve() does not reach Redis${why}`);
    }
    this.#isWarned = isAway;
  }

  async #announce(): Promise<void> {
    await this.#link.beat();
    if (!this.#isUp) return;
    const { redis } = this.#link;
    const { services } = this.#settings.names;
    const workers = this.#closing === undefined ? this.#settings.workers : 0;
    await Promise.all([
      redis.zremrangebyscore(services, '-inf', this.#link.now - SERVICE_LIFE_MS),
      ...(workers === 0 ? [redis.zrem(services, this.#card(this.#settings.workers))] : []),
      redis.zadd(services, this.#link.now + SERVICE_LIFE_MS, this.#card(workers)),
      redis.pexpire(services, 2 * SERVICE_LIFE_MS),
    ]);
  }

  #card(workers: number): string {
    return `${workers} ${this.#id}`;
  }

  /** For callers that are gone, and for messages that were lost. */
  async #checkCalls(): Promise<void> {
    const { redis, now } = this.#link;
    await Promise.all(
      [...this.#calls].map(async ([id, call]) => {
        const [moved, lives] = await Promise.all([
          redis.hget(this.#key(id), EXPIRES_AT),
          redis.exists(this.#settings.names.replies(call.data.caller)),
        ]);
        if (moved !== null) call.expiresAt = Number(moved);
        if (lives === 0) call.end('given up', clientClosed());
        else if (call.expiresAt < now - SLACK_MS) call.end('given up', callTimedOut('The call', 0));
      }),
    );
  }

  #key(id: string): string {
    return this.#worker?.toKey(id) as string;
  }

  async #close(grace: number): Promise<void> {
    await Promise.race([this.#started.catch(() => {}), after(grace)]);
    const patience = setTimeout(() => {
      for (const call of this.#calls.values()) call.end('lost', died());
    }, grace);
    void this.#announce().catch(() => {});
    // Without Redis nothing more can be said, and its jobs are taken for lost.
    await Promise.race([this.#worker?.close().catch(() => {}), after(grace + LEAVE_MS)]);
    clearTimeout(patience);
    clearInterval(this.#beating);
    await Promise.race([
      this.#link.redis.zrem(this.#settings.names.services, this.#card(0)).catch(() => {}),
      after(LEAVE_MS),
    ]);
    await this.#pool.close({ grace: 0 });
    this.#subscriber.disconnect();
    this.#link.redis.disconnect();
  }
}

function after(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms).unref());
}

/** For the task's own signal; the caller is told by another, or was told before. */
function died(): Error {
  return workerDied('the call', { exitCode: null, signal: null });
}

function reasonOf(packed: Buffer): unknown {
  return packed.length === 0 ? clientClosed() : unpackThrown(packed);
}

/** Hands on the latest of what comes, and no more than one in each period. */
class LatestOnly {
  readonly #period: number;
  readonly #send: (value: unknown) => void;
  #waiting: { value: unknown } | undefined;
  #timer: NodeJS.Timeout | undefined;

  constructor(period: number, send: (value: unknown) => void) {
    this.#period = period;
    this.#send = send;
  }

  add(value: unknown): void {
    this.#waiting = { value };
    if (this.#timer === undefined) this.flush();
  }

  flush(): void {
    const waiting = this.#waiting;
    this.stop();
    if (waiting === undefined) return;
    this.#timer = setTimeout(() => this.flush(), this.#period);
    this.#send(waiting.value);
  }

  stop(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#waiting = undefined;
  }
}

function makePool(options: PoolOptions): Pool {
  const { Pool } = require('../pool/pool') as typeof import('../pool/pool');
  return new Pool(options);
}

type ServeSettings = ReturnType<typeof parseServeOptions>;

function parseServeOptions(options: ServeOptions) {
  const who = 'serve';
  checkOptions(who, options, OPTIONS);
  const { connection, modules, reclaim = 'kill', workers, spare, memory, env, execArgv } = options;
  const { workers: count } = parsePoolOptions({ workers, spare, memory, env, execArgv }, who);
  return {
    connection,
    names: parseMeeting(who, options),
    modules: parseModules(who, modules),
    reclaim: parseChoice(who, 'reclaim', reclaim, ['interrupt', 'kill']),
    workers: count,
    pool: { workers: count, minWorkers: count, spare, memory, env, execArgv },
  };
}

function parseModules(who: string, modules: ServeOptions['modules']): ReadonlyMap<string, string> {
  const known = new Map<string, string>();
  if (Array.isArray(modules)) {
    for (const url of modules.map((one) => parseModule(who, 'modules', one))) known.set(moduleName(url), url);
  } else if (typeof modules === 'object' && modules !== null) {
    for (const [name, url] of Object.entries(modules))
      known.set(name, parseModule(who, `modules[${JSON.stringify(name)}]`, url));
  }
  if (known.size === 0) throw invalid(who, 'modules', 'file URLs of modules, at least one', modules);
  return known;
}

/**
 * Serves the modules named, and nothing else, to all pools that `connectPool` has made for the same queue: calls are
 * run by worker processes of this machine. Keeps the process alive until it is closed.
 *
 * Whoever can write to this Redis can call what is served here.
 *
 * @throws TypeError `ERR_UNBLOCK_BAD_OPTION`
 * @throws Error `MODULE_NOT_FOUND` if bullmq or ioredis is not installed
 */
export function serve(options: ServeOptions): Service {
  const settings = parseServeOptions(options);
  // A file that serves and is served is imported by its own workers, where pools start nothing either.
  return currentTask() === undefined ? new QueueService(settings) : makePool(settings.pool);
}
