import { randomUUID } from 'node:crypto';
import { background } from '../background';
import { badOption, notSerializable, poolClosed, queueFull, tooLarge, unreachable, workerDied } from '../errors';
import { checkOptions, invalid, parseInteger, parseSize, type Size } from '../options';
import { backlog } from '../pool/admission';
import { Call, type CallLimits, type Ending, type Task } from '../pool/call';
import { Condition } from '../pool/condition';
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
import { type Parcel, unpackThrown, unwrap } from '../wire';
import { currentTask } from '../worker/current-task';
import { JobQueue } from './jobs';
import { type CallData, moduleName, type Reply, SIGN_MS, SILENCE_MS, toBytes } from './protocol';
import { type Connection, connectInBackground, type MeetingOptions, parseMeeting, RedisLink } from './redis';
import { ReplyStream } from './replies';

export interface ConnectPoolOptions extends MeetingOptions {
  /** How many calls may wait, those of other pools included; one more is refused with 503. Default 1000. */
  readonly maxQueue?: number | undefined;
  /** The most that the arguments (413) or the result (500) of a call may take. Default 1 MB. */
  readonly maxBytes?: Size | undefined;
  /** Exports that may run once more when the machine that ran them died. All others run at most once. */
  readonly idempotent?: readonly string[] | undefined;
}

const OPTIONS = ['connection', 'queue', 'version', 'maxQueue', 'maxBytes', 'idempotent'];
const DEFAULT_MAX_QUEUE = 1000;

/** How long `ready()` waits for Redis, and for a first service, which has to start its workers. */
const REDIS_START_MS = 5000;
const SERVICE_START_MS = 30_000;
/** How long calls wait for another service after the last one has gone. */
const NO_SERVICE_MS = 1000;
/** How often it is asked whether Redis still knows a call. */
const CHECK_MS = 2000;
/** How often waiting calls are checked for whether they can still be done in time. */
const DEMOTE_MS = 50;
/** So many beats in a row without a byte from Redis mean that it is away. A busy process has fewer beats. */
const MOST_SILENT = SILENCE_MS / SIGN_MS;
/** How long `close()` waits for Redis to forget the calls that were given up. */
const FORGET_MS = 1000;

/** A call on its way, as a job of the queue. */
interface Entry {
  id: string;
  readonly call: Call;
  readonly args: Uint8Array;
  /** Settles once adding it has succeeded or failed. */
  adding: Promise<void>;
  /** Redis may have it. */
  isSent: boolean;
  /** Redis has it for certain. */
  isAdded: boolean;
  /** The error because of which it is not certain. */
  doubt: unknown;
  checkedAt: number;
  isDemoted: boolean;
  /** How often it was sent, each time under another name. */
  sends: number;
  /** It was run before, on a machine that died. */
  isRepeated: boolean;
  /** The number of the last reply; 0 is that of replies by others than its service. */
  heard: number;
  readonly unlisten: () => void;
}

/** The connections to Redis. In a worker, where calls run in place, there are none. */
interface Far {
  readonly link: RedisLink;
  readonly replies: ReplyStream;
  readonly beating: NodeJS.Timeout;
  /** When the last byte came in, on the connection that has been silent for longer. */
  heardAt(): number;
  disconnect(): void;
}

class RemotePool implements TaskPool {
  readonly #id = randomUUID();
  readonly #names: ReturnType<typeof parseMeeting>;
  readonly #maxQueue: number;
  readonly #maxBytes: number;
  readonly #idempotent: ReadonlySet<string>;
  readonly #modules = new Map<string, string>();
  readonly #far: Far | undefined;
  #jobs!: JobQueue;
  readonly #entries = new Map<string, Entry>();
  /** Jobs, with the reasons, of calls that ended while Redis was away. Redis may still have them. */
  readonly #toTakeBack = new Map<string, unknown>();
  readonly #work = new Set<Promise<void>>();
  readonly #calls = new CallStats();
  readonly #state = new Condition(SIGN_MS);
  #demoting: NodeJS.Timeout | undefined;
  #isLooking = false;
  #beatAt = 0;
  #silentBeats = 0;
  /** As of the last look; `others` are the calls of other pools. */
  #services = { workers: 0, busy: 0, queued: 0, others: 0, isAnyThere: false };
  #goneAt: number | undefined;
  #closing: Promise<void> | undefined;

  constructor(options: ConnectPoolOptions) {
    const who = 'connectPool';
    checkOptions(who, options, OPTIONS);
    const { maxQueue = DEFAULT_MAX_QUEUE, maxBytes = '1mb', idempotent = [] } = options;
    this.#names = parseMeeting(who, options);
    this.#maxQueue = parseInteger(who, 'maxQueue', maxQueue, 0);
    this.#maxBytes = parseSize(who, 'maxBytes', maxBytes);
    this.#idempotent = new Set(parseNames(who, idempotent));
    if (currentTask() === undefined) this.#far = background.runInAsyncScope(() => this.#connect(options.connection));
    addPool(this);
  }

  #connect(connection: Connection): Far {
    const main = connectInBackground(connection, {
      enableOfflineQueue: false,
      enableAutoPipelining: true,
      socketTimeout: SILENCE_MS,
    });
    const reader = connectInBackground(connection, {});
    const link = new RedisLink(main.redis, () => this.#onOpen());
    const replies = new ReplyStream(reader.redis, this.#names.replies(this.#id), {
      onReply: (reply) => this.#onReply(reply),
      onForgotten: () => this.#doubtAll(),
    });
    return {
      link,
      replies,
      beating: setInterval(() => this.#beat(), SIGN_MS).unref(),
      heardAt: () => Math.min(main.heardAt(), reader.heardAt()),
      disconnect() {
        main.end();
        reader.end();
      },
    };
  }

  get #link(): RedisLink {
    return (this.#far as Far).link;
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
    const call = new Call(task, args, limits, () => this.#onSettled(entry));
    observe?.(call);
    const entry: Entry = {
      ...{ id: `${this.#id}-${call.id}`, call, args: toBytes(args), adding: Promise.resolve() },
      ...{ isSent: false, isAdded: false, doubt: undefined, checkedAt: Number.POSITIVE_INFINITY },
      ...{ isDemoted: false, sends: 1, isRepeated: false, heard: 0 },
      unlisten: limits.request?.onMove?.(() => this.#track(this.#move(entry))) ?? (() => {}),
    };
    call.args = undefined;
    call.onGivenUp = () => this.#track(this.#cancel(entry, call.reason));
    this.#send(entry);
    return call.result;
  }

  async ready(): Promise<void> {
    if (this.#closing !== undefined) throw poolClosed();
    if (this.#far === undefined) return;
    const since = performance.now();
    const { link } = this.#far;
    const isLate = () => performance.now() - since > (link.isOpen ? SERVICE_START_MS : REDIS_START_MS);
    await this.#state.until(() => this.#closing !== undefined || this.#services.workers > 0 || isLate());
    if (this.#closing !== undefined) throw poolClosed();
    if (this.#services.workers === 0) throw unreachable(1, link.isOpen ? undefined : link.failure);
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
    await this.#state.until(() => this.#entries.size === 0);
    clearTimeout(patience);
    removePool(this);
    if (this.#far === undefined) return;
    const { link, replies, beating, disconnect } = this.#far;
    clearInterval(beating);
    const leave = async () => {
      await Promise.all(this.#work);
      await replies.close(link.redis);
      await this.#jobs?.close();
    };
    // Calls of which Redis does not hear now end with the pool's stream.
    await Promise.race([leave().catch(() => {}), new Promise((resolve) => setTimeout(resolve, FORGET_MS).unref())]);
    disconnect();
  }

  #onSettled(entry: Entry): void {
    this.#entries.delete(entry.id);
    entry.unlisten();
    this.#calls.add(entry.call.ending as Ending, entry.call);
    if (this.#entries.size === 0) this.#state.changed();
  }

  #track(work: Promise<void>): void {
    this.#work.add(work);
    void work.finally(() => this.#work.delete(work));
  }

  // The way of a call to its service.

  #send(entry: Entry): void {
    this.#entries.set(entry.id, entry);
    this.#demoting ??= background.runInAsyncScope(setInterval, undefined, () => this.#demote(), DEMOTE_MS).unref();
    const { settled } = this.#link;
    entry.adding = settled === undefined ? this.#add(entry) : settled.then(() => this.#add(entry));
  }

  async #add(entry: Entry): Promise<void> {
    const { id, call } = entry;
    if (call.ending !== undefined) return;
    const refusal = this.#refusal(entry);
    if (refusal !== undefined) {
      call.fail('refused', refusal);
      return;
    }
    entry.isSent = true;
    try {
      await this.#jobs.add(id, call.task.definition.name, this.#dataOf(entry));
      entry.isAdded = true;
      entry.checkedAt = performance.now();
    } catch (cause) {
      // Without an answer nobody knows whether it has arrived. It is not sent again: Redis is asked when it is back.
      if (this.#link.redis.status === 'ready') call.fail('failed', unreachable(1, cause));
      entry.doubt = cause;
      entry.checkedAt = 0;
    }
  }

  #dataOf({ call, args }: Entry): CallData {
    const { url } = call.task.definition as { url: string };
    return {
      caller: this.#id,
      run: this.#link.run as string,
      module: this.#modules.get(url) as string,
      expiresAt: this.#link.at(call.endsAt),
      endsAt: this.#link.at(call.timesOutAt),
      maxBytes: this.#maxBytes,
      args: Buffer.from(args.buffer, args.byteOffset, args.byteLength).toString('base64'),
    };
  }

  #refusal({ call, args, sends }: Entry): Error | undefined {
    const { workers, others } = this.#services;
    const { byteLength: received } = args;
    if (this.#closing !== undefined && sends === 1) return poolClosed();
    if (received > this.#maxBytes) return tooLarge({ limit: this.#maxBytes, received, measure: 'arguments' });
    if (!this.#link.isOpen) return unreachable(1, this.#link.failure);
    if (workers === 0) return unreachable(1);
    if (sends > 1) return undefined;
    const refusal = call.task.admission?.refusal(call, this.#startsIn(call), performance.now());
    // The number of this pool's calls, with this one, is exact; that of others is from the last look.
    const isFull = this.#entries.size + others > workers + this.#maxQueue;
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

  async #cancel(entry: Entry, reason: unknown): Promise<void> {
    await entry.adding;
    if (entry.isSent) await this.#takeBack(entry.id, reason);
  }

  async #takeBack(id: string, reason: unknown): Promise<void> {
    this.#toTakeBack.set(id, reason);
    try {
      await this.#jobs.takeBack(id, reason);
      this.#toTakeBack.delete(id);
    } catch {
      // It is tried again when Redis is back.
    }
  }

  async #move(entry: Entry): Promise<void> {
    await entry.adding;
    if (!entry.isSent || entry.call.ending !== undefined) return;
    // If the service does not hear of it, it uses the earlier end, and the call comes back as not begun.
    await this.#jobs.move(entry.id, this.#link.at(entry.call.endsAt)).catch(() => {});
  }

  // The way back.

  #onReply({ call: id, kind, number, runMs, pid, body }: Reply): void {
    const entry = this.#entries.get(id);
    if (entry === undefined) return; // It has ended before.
    if (number > 0 && number <= entry.heard) return;
    entry.heard = number;
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
    const { call, isRepeated } = entry;
    const { name } = call.task.definition;
    this.#track(this.#takeBack(entry.id, undefined));
    if (isRepeated || !this.#idempotent.has(name)) {
      call.fail('died', workerDied(name, { exitCode: null, signal: null }));
      return;
    }
    entry.isRepeated = true;
    this.#sendAgain(entry);
  }

  /** Sends it under another name, so that a service that still has the first job cannot answer for the second. */
  #sendAgain(entry: Entry): void {
    if (entry.call.isDue) return; // It is about to be given up.
    this.#entries.delete(entry.id);
    entry.sends++;
    entry.id = `${this.#id}-${entry.call.id}-${entry.sends}`;
    const unsent = { isSent: false, isAdded: false, isDemoted: false, checkedAt: Number.POSITIVE_INFINITY, heard: 0 };
    Object.assign(entry, unsent);
    this.#send(entry);
  }

  // Periodic work.

  async #onOpen(): Promise<void> {
    this.#jobs ??= new JobQueue(this.#names.queue, this.#link.redis, this.#names.moves);
    await this.#jobs.ready();
    await this.#far?.replies.open(this.#link.redis);
    await this.#look();
  }

  #beat(): void {
    this.#abandonWhereSilent();
    if (this.#isLooking || this.#link.redis.status !== 'ready' || this.#link.state === 'opening') return;
    this.#isLooking = true;
    (this.#link.isOpen ? this.#look() : this.#link.open())
      .catch((error) => {
        this.#link.failure = error;
      })
      .finally(() => {
        this.#isLooking = false;
        this.#state.changed();
      });
  }

  /** No service can answer without Redis. By now, the services have stopped these calls by themselves. */
  #abandonWhereSilent(): void {
    const { heardAt } = this.#far as Far;
    this.#silentBeats = heardAt() < this.#beatAt ? this.#silentBeats + 1 : 0;
    this.#beatAt = performance.now();
    if (this.#silentBeats < MOST_SILENT) return;
    for (const { id, call, isSent } of this.#entries.values()) {
      if (!isSent) continue;
      this.#toTakeBack.set(id, undefined);
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
      const { id, call, isAdded } = entry;
      if (!isAdded || entry.isDemoted || call.startedAt !== undefined) continue;
      const refusal = call.task.admission?.refusalAtTurn(call, this.#startsIn(call), performance.now());
      if (refusal !== undefined) call.giveUp(refusal, 'refused');
      if (refusal !== undefined || call.isFeasible) continue;
      entry.isDemoted = true;
      this.#jobs.demote(id, this.#link.at(call.endsAt)).catch(() => {}); // It keeps its place.
    }
  }

  async #look(): Promise<void> {
    const { redis } = this.#link;
    const own = this.#entries.size;
    const [services, { waiting, active }] = await Promise.all([
      redis.zrangebyscore(this.#names.services, this.#link.now, '+inf'),
      this.#jobs.count(),
      this.#link.beat(),
    ]);
    const workers = services.map(Number.parseFloat).reduce((sum, one) => sum + one, 0);
    const others = Math.max(0, waiting + active - own);
    const busy = Math.min(active, workers);
    this.#services = { workers, busy, queued: waiting, others, isAnyThere: services.length > 0 };
    this.#goneAt = workers > 0 ? undefined : (this.#goneAt ?? performance.now());
    await Promise.all([...this.#toTakeBack].map(([id, reason]) => this.#takeBack(id, reason)));
    if (this.#goneAt !== undefined && performance.now() - this.#goneAt > NO_SERVICE_MS) await this.#endOrphans();
    await this.#check();
  }

  /** No service takes calls any more. Calls that none has begun fail as unreachable, and may be tried again. */
  async #endOrphans(): Promise<void> {
    const { isAnyThere } = this.#services;
    const end = async (entry: Entry) => {
      const isBegun = await this.#jobs.isBegun(entry.id);
      if (!isBegun && (await this.#jobs.remove(entry.id))) entry.call.fail('failed', unreachable(1));
      else if (!isAnyThere && this.#entries.get(entry.id) === entry) this.#onLost(entry);
    };
    await Promise.all([...this.#entries.values()].filter(({ isAdded }) => isAdded).map(end));
  }

  #doubtAll(): void {
    for (const entry of this.#entries.values()) if (entry.isAdded) entry.checkedAt = 0;
  }

  /** Asks Redis for the calls that it has not been asked for lately. */
  async #check(): Promise<void> {
    const before = performance.now() - CHECK_MS;
    const due = [...this.#entries.values()].filter(({ checkedAt }) => checkedAt < before);
    const missing: Entry[] = [];
    const check = async (entry: Entry) => {
      const { id } = entry;
      const isKnown = await this.#jobs.isKnown(id);
      if (entry.id !== id) return;
      entry.checkedAt = performance.now();
      if (isKnown) entry.isAdded = true;
      else missing.push(entry);
    };
    await Promise.all(due.map(check));
    if (missing.length === 0) return;
    // A service replies before it removes the job: if all replies were read and the job is missing, the call is lost.
    if (!(await this.#far?.replies.readAll(this.#link.redis))) return;
    for (const entry of missing) {
      if (this.#entries.get(entry.id) !== entry) continue;
      if (entry.isAdded) this.#onLost(entry);
      else entry.call.fail('failed', unreachable(1, entry.doubt));
    }
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
 * @throws Error `MODULE_NOT_FOUND` if bullmq or ioredis is not installed
 */
export function connectPool(options: ConnectPoolOptions): WorkerPool {
  return new RemotePool(options);
}
