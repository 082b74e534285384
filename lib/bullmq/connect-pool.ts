import { AsyncResource } from 'node:async_hooks';
import { randomUUID } from 'node:crypto';
import type { Job, Queue } from 'bullmq';
import type { Redis } from 'ioredis';
import { badOption, notSerializable, poolClosed, queueFull, tooLarge, unreachable, workerDied } from '../errors';
import { checkOptions, invalid, parseInteger, parseSize, type Size } from '../options';
import { backlog } from '../pool/admission';
import { Call, type CallLimits, type Ending, type Task } from '../pool/call';
import {
  addPool,
  type CloseOptions,
  parseGrace,
  removePool,
  type TaskPool,
  type TaskSource,
  type WorkerPool,
} from '../pool/pools';
import { CallStats, type PoolStats } from '../pool/stats';
import { type Parcel, packThrown, unpackThrown, unwrap } from '../wire';
import { currentTask } from '../worker/current-task';
import {
  BEAT_MS,
  CALLER_LIFE_MS,
  type CallData,
  EXPIRES_AT,
  moduleName,
  namesOf,
  packMove,
  packReply,
  type Reply,
  SILENCE_MS,
  toBytes,
  unpackReply,
} from './protocol';
import { type Connection, connectInBackground, loadPeers, parseConnection, parseQueue, RedisLink } from './redis';

export interface ConnectPoolOptions {
  /**
   * Where Redis is: a URL such as `redis://localhost:6379`, or the options of ioredis. Never a ready client: the pool's
   * connections must not send again what was lost, since a call could then run twice.
   */
  readonly connection: Connection;
  /** The services' name for the queue. Default `'express-unblock'`. */
  readonly queue?: string | undefined;
  /** Only services of the same version are asked. Default: none, which is a version of its own. */
  readonly version?: string | undefined;
  /** How many calls may wait, those of other pools included; one more is refused with 503. Default 1000. */
  readonly maxQueue?: number | undefined;
  /** The most that the arguments (413) or the result (500) of a call may take. Default 1 MB. */
  readonly maxBytes?: Size | undefined;
  /** Exports that may run once more when the machine that ran them died. All others run at most once. */
  readonly idempotent?: readonly string[] | undefined;
}

const OPTIONS = ['connection', 'queue', 'version', 'maxQueue', 'maxBytes', 'idempotent'];
const DEFAULT_QUEUE = 'express-unblock';
const DEFAULT_MAX_QUEUE = 1000;

/** How long `ready()` waits for Redis, and for a first service, which has to start its workers. */
const REDIS_START_MS = 5000;
const SERVICE_START_MS = 30_000;
/** After the last service has gone: another may be about to come. */
const NO_SERVICE_MS = 1000;
/** How often it is asked whether Redis still knows a call. */
const CHECK_MS = 2000;
/** How long `XREAD` waits for replies, and after a failed one it is tried again. */
const READ_MS = 2000;
const RETRY_MS = 50;
/** How exactly it is seen that a call can hardly be done in time any more. */
const DEMOTE_MS = 50;
/** So many beats in a row without word from Redis. Counted, since a process that was busy has not been listening. */
const MOST_SILENT = 6;
/** How long `close()` waits for Redis to forget the calls that were given up. */
const FORGET_MS = 1000;

/** BullMQ has 21 bits for the priority of a job: two bands of deadlines, of which each begins anew after 14.5 hours. */
const BAND = 2 ** 20 - 1;
const RESOLUTION_MS = 50;

/** By deadline, after all those that can still be done in time. */
export function priorityOf(expiresAt: number, isFeasible: boolean): number {
  return 1 + (Math.floor(expiresAt / RESOLUTION_MS) % BAND) + (isFeasible ? 0 : BAND);
}

/** A call on its way, as a job of the queue. */
interface Entry {
  id: string;
  readonly call: Call;
  readonly args: Uint8Array;
  /** Settles once it is known whether Redis has the job. */
  adding: Promise<void>;
  /** Redis may have the job. */
  isSent: boolean;
  /** There while Redis has it for certain. */
  job: Job | undefined;
  checkedAt: number;
  isDemoted: boolean;
  attempts: number;
  readonly unlisten: () => void;
}

/** What lasts belongs to no request, and keeps none of them alive. */
const background = new AsyncResource('express-unblock:bullmq');

class RemotePool implements TaskPool {
  readonly #id = randomUUID();
  readonly #names: ReturnType<typeof namesOf>;
  readonly #replies: string;
  readonly #maxQueue: number;
  readonly #maxBytes: number;
  readonly #idempotent: ReadonlySet<string>;
  readonly #modules = new Map<string, string>();
  readonly #entries = new Map<string, Entry>();
  /** Jobs of calls that have ended while Redis was away: it may have them still. */
  readonly #forgotten = new Map<string, unknown>();
  readonly #cancelling = new Set<Promise<void>>();
  readonly #calls = new CallStats();
  readonly #watchers = new Set<() => void>();
  readonly #marks = new Map<string, () => void>();
  #link!: RedisLink;
  #reader!: Redis;
  #heardAt = () => performance.now();
  #queue: Queue | undefined;
  #disconnect = () => {};
  #beating: NodeJS.Timeout | undefined;
  #demoting: NodeJS.Timeout | undefined;
  #isLooking = false;
  #lastReply = '0-0';
  #silentBeats = 0;
  #services = { count: 0, workers: 0, busy: 0, queued: 0, others: 0, goneAt: undefined as number | undefined };
  #closing: Promise<void> | undefined;

  constructor(options: ConnectPoolOptions) {
    const who = 'connectPool';
    checkOptions(who, options, OPTIONS);
    const {
      connection,
      queue = DEFAULT_QUEUE,
      version,
      maxQueue = DEFAULT_MAX_QUEUE,
      maxBytes = '1mb',
      idempotent = [],
    } = options;
    parseConnection(who, connection);
    if (version !== undefined) parseQueue(who, 'version', version);
    this.#names = namesOf(parseQueue(who, 'queue', queue), version);
    this.#replies = this.#names.replies(this.#id);
    this.#maxQueue = parseInteger(who, 'maxQueue', maxQueue, 0);
    this.#maxBytes = parseSize(who, 'maxBytes', maxBytes);
    this.#idempotent = new Set(parseNames(who, idempotent));
    addPool(this);
    // In a worker, calls run in place.
    if (currentTask() === undefined) background.runInAsyncScope(() => this.#connect(connection));
  }

  #connect(connection: Connection): void {
    const main = connectInBackground(connection, {
      enableOfflineQueue: false,
      enableAutoPipelining: true,
      socketTimeout: SILENCE_MS,
    });
    const reader = connectInBackground(connection, {});
    this.#reader = reader.redis;
    this.#link = new RedisLink(main.redis, () => this.#onOpen());
    this.#heardAt = () => Math.min(main.heardAt(), reader.heardAt());
    this.#disconnect = () => {
      main.end();
      reader.end();
    };
    this.#beating = setInterval(() => this.#beat(), BEAT_MS / 2).unref();
    void this.#read();
  }

  accept(source: TaskSource): void {
    if (source.kind === 'module') {
      this.#modules.set(source.url, moduleName(source.url));
      return;
    }
    throw badOption(
      `offload: ${source.name} cannot run in a pool of connectPool(): its source text in a queue would be code that anybody with access to Redis could send. Export it from a module, and use offload.module()`,
    );
  }

  submit(task: Task, args: Parcel, limits: CallLimits, observe?: (call: Call) => void): Promise<unknown> {
    const call = new Call(task, args, limits, (settled) => this.#onSettled(entry, settled));
    observe?.(call);
    const entry: Entry = {
      id: `${this.#id}-${call.id}`,
      call,
      args: toBytes(args),
      adding: Promise.resolve(),
      isSent: false,
      job: undefined,
      checkedAt: Number.POSITIVE_INFINITY,
      isDemoted: false,
      attempts: 1,
      unlisten: limits.request?.onMove?.(() => this.#track(this.#move(entry))) ?? (() => {}),
    };
    call.args = undefined;
    call.onGivenUp = () => this.#track(this.#cancel(entry, call.reason));
    this.#send(entry);
    return call.result;
  }

  async ready(): Promise<void> {
    if (this.#closing !== undefined) throw poolClosed();
    if (currentTask() !== undefined) return;
    const since = performance.now();
    const isLate = () => {
      const waited = performance.now() - since;
      return waited > (this.#link.isOpen ? SERVICE_START_MS : REDIS_START_MS);
    };
    await this.#until(() => this.#closing !== undefined || this.#services.workers > 0 || isLate());
    if (this.#closing !== undefined) throw poolClosed();
    if (this.#services.workers === 0) throw unreachable(1, this.#link.isOpen ? undefined : this.#link.failure);
  }

  stats(): PoolStats {
    const { workers, busy, queued } = this.#services;
    return { workers, spare: 0, busy, queued, ...this.#calls.report() };
  }

  close(options?: CloseOptions): Promise<void> {
    const grace = parseGrace('pool.close', options);
    this.#closing ??= this.#close(grace);
    return this.#closing;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #close(grace: number): Promise<void> {
    const patience = setTimeout(() => {
      for (const { call } of this.#entries.values()) call.giveUp(poolClosed(), 'refused');
    }, grace);
    await this.#until(() => this.#entries.size === 0);
    clearTimeout(patience);
    removePool(this);
    clearInterval(this.#beating);
    if (this.#link === undefined) return;
    const forget = async () => {
      await Promise.all(this.#cancelling);
      await this.#link.redis.del(this.#replies);
      await this.#queue?.close();
    };
    // What Redis does not hear of now, it forgets with the pool's stream.
    const given = new Promise((resolve) => setTimeout(resolve, FORGET_MS).unref());
    await Promise.race([forget().catch(() => {}), given]);
    this.#disconnect();
  }

  /** Connections keep no process alive, but somebody who waits for them does. */
  async #until(condition: () => boolean): Promise<void> {
    const waiting = setInterval(() => this.#changed(), BEAT_MS);
    while (!condition()) await new Promise<void>((resolve) => this.#watchers.add(resolve));
    clearInterval(waiting);
  }

  #changed(): void {
    const watchers = [...this.#watchers];
    this.#watchers.clear();
    for (const watcher of watchers) watcher();
  }

  #onSettled(entry: Entry, call: Call): void {
    this.#entries.delete(entry.id);
    entry.unlisten();
    entry.job = undefined;
    this.#calls.add(call.ending as Ending, call);
    if (this.#entries.size === 0) this.#changed();
  }

  #key(of: string): string {
    return (this.#queue as Queue).toKey(of);
  }

  #track(work: Promise<void>): void {
    this.#cancelling.add(work);
    void work.finally(() => this.#cancelling.delete(work));
  }

  // From here on: the way of a call to its service.

  #send(entry: Entry): void {
    const { call } = entry;
    this.#entries.set(entry.id, entry);
    this.#demoting ??= background.runInAsyncScope(setInterval, undefined, () => this.#demote(), DEMOTE_MS).unref();
    if (this.#closing !== undefined) {
      call.fail('refused', poolClosed());
    } else if (entry.args.byteLength > this.#maxBytes) {
      const received = entry.args.byteLength;
      call.fail('refused', tooLarge({ limit: this.#maxBytes, received, measure: 'arguments' }));
    } else if (this.#link.state === 'opening') {
      entry.adding = this.#link.settled().then(() => this.#add(entry));
    } else {
      entry.adding = this.#add(entry);
    }
  }

  async #add(entry: Entry): Promise<void> {
    const { call } = entry;
    if (call.ending !== undefined) return;
    const refusal = this.#refusal(entry);
    if (refusal !== undefined) {
      call.fail('refused', refusal);
      return;
    }
    const { definition } = call.task;
    const expiresAt = this.#link.at(call.endsAt);
    entry.isSent = true;
    try {
      entry.job = await (this.#queue as Queue).add(definition.name, this.#dataOf(entry, expiresAt), {
        jobId: entry.id,
        priority: priorityOf(expiresAt, true),
      });
      entry.checkedAt = performance.now();
      entry.job.data = {}; // Redis has them now.
    } catch (cause) {
      // Whether it has arrived is not known: it is never sent again, and taken back where it has.
      this.#forgotten.set(entry.id, undefined);
      call.fail('failed', unreachable(1, cause));
    }
  }

  #dataOf({ call, args }: Entry, expiresAt: number): CallData {
    const { definition } = call.task;
    return {
      caller: this.#id,
      run: this.#link.run as string,
      module: this.#modules.get((definition as { url: string }).url) as string,
      expiresAt,
      endsAt: this.#link.at(call.timesOutAt),
      maxBytes: this.#maxBytes,
      args: Buffer.from(args.buffer, args.byteOffset, args.byteLength).toString('base64'),
    };
  }

  #refusal(entry: Entry): Error | undefined {
    const { workers, others } = this.#services;
    if (!this.#link.isOpen) return unreachable(1, this.#link.failure);
    if (workers === 0) return unreachable(1);
    // This pool's own calls are known; those of others as of the last look.
    const isFull = this.#entries.size - 1 + others >= workers + this.#maxQueue;
    if (entry.attempts > 1) return undefined;
    const { call } = entry;
    const refusal = call.task.admission?.refusal(call, this.#startsIn(call), performance.now());
    return refusal ?? (isFull ? queueFull(this.#secondsToWait()) : undefined);
  }

  /** In how many milliseconds a worker has time for a call with this deadline. */
  #startsIn({ deadlineAt }: Call): number {
    const { workers, others } = this.#services;
    if (this.#entries.size + others <= workers) return 0;
    const calls = [...this.#entries.values()].map(({ call }) => call);
    const othersMs = (others * (this.#calls.meanRunMs ?? 0)) / workers;
    return backlog(calls, deadlineAt, workers, performance.now()) + othersMs;
  }

  #secondsToWait(): number {
    const { workers, queued } = this.#services;
    return Math.max(1, Math.ceil(((queued + 1) * (this.#calls.meanRunMs ?? 1000)) / workers / 1000));
  }

  /** Takes it out of the queue; where that is too late, tells the service that has it. */
  async #cancel(entry: Entry, reason: unknown): Promise<void> {
    await entry.adding;
    if (entry.isSent) await this.#takeBack(entry.id, reason);
  }

  async #takeBack(id: string, reason: unknown): Promise<void> {
    this.#forgotten.set(id, reason);
    try {
      if ((await this.#queue?.remove(id)) === 0) await this.#tell(id, 0, reason);
      this.#forgotten.delete(id);
    } catch {
      // Once Redis is back, it is tried again.
    }
  }

  async #move(entry: Entry): Promise<void> {
    await entry.adding;
    if (entry.job === undefined || entry.call.ending !== undefined) return;
    await this.#tell(entry.id, this.#link.at(entry.call.endsAt)).catch(() => {});
  }

  /** The job's own field is for those who have not begun it, or did not hear the message. */
  async #tell(id: string, expiresAt: number, reason?: unknown): Promise<void> {
    const script = `if redis.call('EXISTS', KEYS[1]) == 1 then redis.call('HSET', KEYS[1], '${EXPIRES_AT}', ARGV[1]) end
      return redis.call('PUBLISH', ARGV[2], ARGV[3])`;
    const key = this.#key(id);
    const message = packMove(id, expiresAt, reason === undefined ? undefined : packThrown(reason));
    await this.#link.redis.eval(script, 1, key, String(expiresAt), this.#names.moves, message);
  }

  // From here on: the way back.

  async #read(): Promise<void> {
    while (this.#closing === undefined || this.#entries.size > 0) {
      // Where the wire is cut and neither side is told, no answer comes.
      const silence = setTimeout(() => this.#reader.disconnect(), READ_MS + SILENCE_MS / 2).unref();
      try {
        const streams = await this.#reader.xreadBuffer(
          'COUNT',
          100,
          'BLOCK',
          READ_MS,
          'STREAMS',
          this.#replies,
          this.#lastReply,
        );
        this.#onReplies(streams?.[0]?.[1] ?? []);
      } catch (error) {
        if (this.#reader.status === 'ready') this.#link.failure = error;
        await new Promise((resolve) => setTimeout(resolve, RETRY_MS).unref());
      } finally {
        clearTimeout(silence);
      }
    }
  }

  #onReplies(entries: readonly [Buffer, Buffer[]][]): void {
    for (const [id, fields] of entries) {
      this.#lastReply = String(id);
      this.#onReply(unpackReply(fields));
    }
    if (entries.length > 0) this.#link.redis.xtrim(this.#replies, 'MINID', this.#lastReply).catch(() => {});
  }

  #onReply({ call: id, kind, runMs, pid, body }: Reply): void {
    this.#marks.get(id)?.();
    const entry = this.#entries.get(id);
    if (entry === undefined) return; // It has ended before.
    const { call } = entry;
    if (pid !== undefined) {
      call.pid = pid;
      call.startedAt ??= performance.now() - runMs;
    }
    try {
      if (kind === 'progress') call.onProgress?.(unwrap(body));
      else if (kind === 'completed') call.succeed(unwrap(body));
      else if (kind === 'lost') this.#onLost(entry);
      else if (kind === 'stale') call.fail('failed', unreachable(1));
      else if (kind === 'unstarted') this.#sendAgain(entry);
      else if (kind !== 'began') call.fail(kind as Ending, unpackThrown(body));
    } catch (cause) {
      call.fail('failed', notSerializable('What came back', call.task.definition.name, cause));
    }
  }

  #onLost(entry: Entry): void {
    const { call } = entry;
    const { name } = call.task.definition;
    this.#track(this.#takeBack(entry.id, undefined));
    if (this.#idempotent.has(name) && entry.attempts === 1) this.#sendAgain(entry);
    else call.fail('died', workerDied(name, { exitCode: null, signal: null }));
  }

  /** Under another name: whoever may still hold the first cannot be taken for the second. */
  #sendAgain(entry: Entry): void {
    if (entry.call.isDue) return; // It is about to be given up.
    this.#entries.delete(entry.id);
    entry.attempts++;
    entry.id = `${this.#id}-${entry.call.id}-${entry.attempts}`;
    entry.isSent = false;
    entry.job = undefined;
    entry.checkedAt = Number.POSITIVE_INFINITY;
    entry.isDemoted = false;
    this.#send(entry);
  }

  // From here on: what is looked at again and again.

  async #onOpen(): Promise<void> {
    const { Queue } = loadPeers();
    this.#queue ??= new Queue(this.#names.queue, {
      connection: this.#link.redis as never,
      streams: { events: { maxLen: 0 } },
      defaultJobOptions: { attempts: 1, removeOnComplete: true, removeOnFail: true, stackTraceLimit: 0 },
    }).on('error', () => {});
    await this.#queue.waitUntilReady();
    await this.#look();
  }

  #beat(): void {
    this.#abandonWhereSilent();
    if (this.#isLooking || this.#link.redis.status !== 'ready' || this.#link.state === 'opening') return;
    this.#isLooking = true;
    const work = this.#link.isOpen ? this.#look() : this.#link.open();
    work
      .catch((error) => {
        this.#link.failure = error;
      })
      .finally(() => {
        this.#isLooking = false;
        this.#changed();
      });
  }

  /** Without Redis no service can say how a call ended; by now they have stopped it by themselves. */
  #abandonWhereSilent(): void {
    this.#silentBeats = performance.now() - this.#heardAt() > READ_MS + BEAT_MS ? this.#silentBeats + 1 : 0;
    if (this.#silentBeats < MOST_SILENT) return;
    for (const { id, call, job } of this.#entries.values()) {
      if (job === undefined) continue;
      this.#forgotten.set(id, undefined);
      call.fail('failed', unreachable(1, this.#link.failure));
    }
  }

  /**
   * As in the queue of a local pool: what can hardly be done in time any more lets all others go first, and what has
   * waited in vain is refused.
   */
  #demote(): void {
    if (this.#entries.size === 0) {
      clearInterval(this.#demoting);
      this.#demoting = undefined;
    }
    for (const entry of this.#entries.values()) {
      const { call, job } = entry;
      if (job === undefined || entry.isDemoted || call.startedAt !== undefined) continue;
      const refusal = call.task.admission?.refusalAtTurn(call, this.#startsIn(call), performance.now());
      if (refusal !== undefined) call.giveUp(refusal, 'refused');
      if (refusal !== undefined || call.isFeasible) continue;
      entry.isDemoted = true;
      job.changePriority({ priority: priorityOf(this.#link.at(call.endsAt), false) }).catch(() => {});
    }
  }

  async #look(): Promise<void> {
    const { redis } = this.#link;
    const own = this.#entries.size;
    const [lives, services, waiting, stalled, active] = await Promise.all([
      redis.pexpire(this.#replies, CALLER_LIFE_MS),
      redis.zrangebyscore(this.#names.services, this.#link.now, '+inf'),
      redis.zcard(this.#key('prioritized')),
      redis.llen(this.#key('wait')),
      redis.llen(this.#key('active')),
      this.#link.beat(),
    ]);
    if (lives === 0) await this.#openReplies();
    this.#see(services, waiting + stalled, active, own);
    await Promise.all([...this.#forgotten].map(([id, reason]) => this.#takeBack(id, reason)));
    await this.#checkEntries();
  }

  #see(services: string[], queued: number, active: number, own: number): void {
    const workers = services.map(Number.parseFloat).reduce((sum, one) => sum + one, 0);
    const goneAt = workers > 0 ? undefined : (this.#services.goneAt ?? performance.now());
    const busy = Math.min(active, workers);
    const others = Math.max(0, queued + active - own);
    this.#services = { count: services.length, workers, busy, queued, others, goneAt };
  }

  /** Services say nothing to a pool whose stream is gone, and stop what it has called. */
  async #openReplies(): Promise<void> {
    this.#lastReply = '0-0';
    const [call, ...rest] = packReply('', 'mark');
    await this.#link.redis
      .multi()
      .xadd(this.#replies, '*', call as string, ...rest)
      .pexpire(this.#replies, CALLER_LIFE_MS)
      .exec();
    for (const entry of this.#entries.values()) if (entry.job !== undefined) entry.checkedAt = 0;
  }

  async #checkEntries(): Promise<void> {
    const { goneAt, count } = this.#services;
    if (goneAt !== undefined && performance.now() - goneAt > NO_SERVICE_MS) await this.#endOrphans(count === 0);
    const before = performance.now() - CHECK_MS;
    const due = [...this.#entries.values()].filter(({ checkedAt }) => checkedAt < before);
    const lost = await this.#lostOf(due);
    if (lost.length === 0) return;
    // A service replies before it removes the job: what is lost now stays so once all that was said has been read.
    if (!(await this.#readAll())) return;
    for (const entry of lost) if (this.#entries.get(entry.id) === entry) this.#onLost(entry);
  }

  /** Those that Redis does not know any more, or that a service was found not to renew. */
  async #lostOf(entries: Entry[]): Promise<Entry[]> {
    const { redis } = this.#link;
    const ids = entries.map(({ id }) => id);
    const found = await Promise.all(ids.map((id) => redis.hmget(this.#key(id), 'name', 'defa')));
    const now = performance.now();
    for (const entry of entries) entry.checkedAt = now;
    return entries.filter((entry, at) => entry.id === ids[at] && (found[at]?.[0] === null || found[at]?.[1] !== null));
  }

  async #readAll(): Promise<boolean> {
    const mark = randomUUID();
    const read = new Promise<boolean>((resolve) => {
      this.#marks.set(mark, () => resolve(true));
      setTimeout(resolve, READ_MS, false).unref();
    });
    const [call, ...rest] = packReply(mark, 'mark');
    await this.#link.redis.xadd(this.#replies, '*', call as string, ...rest);
    const isRead = await read;
    this.#marks.delete(mark);
    return isRead;
  }

  /** No service takes calls any more. What none has begun may be tried again elsewhere, or later. */
  async #endOrphans(isAlone: boolean): Promise<void> {
    const orphans = [...this.#entries.values()].filter(({ job }) => job !== undefined);
    await Promise.all(
      orphans.map(async (entry) => {
        const begun = await this.#link.redis.hget(this.#key(entry.id), 'processedOn');
        if (begun === null && (await this.#queue?.remove(entry.id)) === 1) entry.call.fail('failed', unreachable(1));
        else if (isAlone && this.#entries.get(entry.id) === entry) this.#onLost(entry);
      }),
    );
  }
}

function parseNames(who: string, names: unknown): readonly string[] {
  if (Array.isArray(names) && names.every((name) => typeof name === 'string')) return names;
  throw invalid(who, 'idempotent', 'an array of names of exports', names);
}

/**
 * Makes a pool whose workers are on other machines, in the services that `serve` starts there. `offload.module` takes
 * it as it takes one of `createPool`. It never keeps the process alive while no call is under way.
 *
 * Besides what a call can end in otherwise, its calls can end in `ERR_UNBLOCK_UNREACHABLE` (503), where Redis or all
 * services are away, in `ERR_UNBLOCK_NO_SUCH_MODULE` (500) and in `ERR_UNBLOCK_TOO_LARGE` (413 for arguments, 500 for
 * results).
 *
 * @throws TypeError `ERR_UNBLOCK_BAD_OPTION`
 * @throws Error `ERR_UNBLOCK_MISSING_PEER` where bullmq or ioredis is not installed
 */
export function connectPool(options: ConnectPoolOptions): WorkerPool {
  return new RemotePool(options);
}
