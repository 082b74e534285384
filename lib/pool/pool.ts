import { availableParallelism } from 'node:os';
import { createHistogram, type RecordableHistogram } from 'node:perf_hooks';
import { type Death, poolClosed, queueFull, workerNotStarted } from '../errors';
import { checkOptions, invalid, parseInteger, parseSize, parseTime, type Size, type Time } from '../options';
import type { Parcel } from '../wire';
import { currentTask } from '../worker/current-task';
import { Call, type CallLimits, type Ending, type Task } from './call';
import { DeadlineQueue } from './queue';
import { WorkerProcess, type WorkerProcessOptions } from './worker-process';

export interface PoolOptions {
  /** How many worker processes there may be. Default: the available parallelism less one, at least one. */
  readonly workers?: number | undefined;
  /** How many are kept warm, dead ones replaced. Default 0: workers start with the first calls. */
  readonly minWorkers?: number | undefined;
  /** How many calls may wait; one more is refused with 503. Default 1000; 0 means no waiting. */
  readonly maxQueue?: number | undefined;
  /** A cap on each worker's JavaScript heap, such as `'512mb'`; a worker that exceeds it dies. Default: Node's own. */
  readonly memory?: Size | undefined;
  /** The workers' environment. Default: this process's. */
  readonly env?: NodeJS.ProcessEnv | undefined;
  /** Node's flags for the workers. Default: this process's, so that loaders such as tsx work, less its inspector's. */
  readonly execArgv?: readonly string[] | undefined;
}

/** Milliseconds over all calls since the pool's start; `NaN` before the first. */
export interface Percentiles {
  readonly p50: number;
  readonly p90: number;
  readonly p99: number;
  readonly max: number;
}

export interface PoolStats {
  /** Live worker processes, starting ones included. */
  readonly workers: number;
  /** Of these, how many run a call, or are being taken back from one. */
  readonly busy: number;
  /** Calls that wait for a worker. */
  readonly queued: number;
  /** Since the pool's start: calls that returned … */
  readonly completed: number;
  /** … that threw … */
  readonly failed: number;
  /** … whose time, or whose request's, ran out … */
  readonly timedOut: number;
  /** … whose client left or whose signal aborted … */
  readonly cancelled: number;
  /** … that found no room to wait, or the pool closed … */
  readonly refused: number;
  /** … and whose worker died. */
  readonly died: number;
  /** From the call to its start. */
  readonly wait: Percentiles;
  /** From its start to its end. */
  readonly run: Percentiles;
}

const DEFAULT_MAX_QUEUE = 1000;
const DEFAULT_GRACE = 5000;
/** After a worker that could not start, before another is tried. */
const RETRY_MS = 1000;
/** As many workers in a row may be killed before they are ready. */
const MOST_KILLED = 5;
/** Workers beyond `minWorkers` that had nothing to do for this long are given back. */
const IDLE_MS = 60_000;

/** Flags of the parent that would hurt a worker: a second inspector on the same port, a script instead of its own … */
const NOT_FOR_WORKERS = /^--?(inspect|debug|interactive$|i$|watch|test|eval=|print=|input-type)/;
/** … which may also be the next argument. */
const SCRIPT_FLAG = /^(-e|-p|-pe|--eval|--print)$/;

const open = new Set<Pool>();

/** @internal What `createPool` returns; users see `WorkerPool`. */
export class Pool {
  readonly #workers: number;
  readonly #minWorkers: number;
  readonly #maxQueue: number;
  readonly #options: WorkerProcessOptions;
  readonly #all = new Set<WorkerProcess>();
  /** The last one to finish is the first to run again: it is the warmest, and the others can be given back. */
  readonly #idle: WorkerProcess[] = [];
  readonly #queue = new DeadlineQueue<Call>();
  readonly #unsettled = new Set<Call>();
  readonly #counts: Record<Ending, number> = {
    completed: 0,
    failed: 0,
    timedOut: 0,
    cancelled: 0,
    refused: 0,
    died: 0,
  };
  readonly #wait = createHistogram();
  readonly #run = createHistogram();
  readonly #watchers = new Set<() => void>();
  #failedStart: Death | undefined;
  /** How many in a row were killed before they were ready. */
  #killedStarts = 0;
  #closing: Promise<void> | undefined;
  #tidying: NodeJS.Timeout | undefined;

  constructor(options: PoolOptions = {}) {
    const who = 'createPool';
    checkOptions(who, options, ['workers', 'minWorkers', 'maxQueue', 'memory', 'env', 'execArgv']);
    const {
      workers = Math.max(1, availableParallelism() - 1),
      minWorkers = 0,
      maxQueue = DEFAULT_MAX_QUEUE,
      env,
    } = options;
    this.#workers = parseInteger(who, 'workers', workers, 1);
    this.#minWorkers = parseInteger(who, 'minWorkers', minWorkers, 0);
    if (this.#minWorkers > this.#workers) {
      throw invalid(who, 'minWorkers', `at most workers (${this.#workers})`, this.#minWorkers);
    }
    this.#maxQueue = parseInteger(who, 'maxQueue', maxQueue, 0);
    this.#options = { env: parseEnv(who, env), execArgv: parseFlags(who, options) };
    open.add(this);
    this.#keepWarm();
  }

  /** Runs a task; resolves or rejects with how it ended. */
  submit(task: Task, args: Parcel, limits: CallLimits, observe?: (call: Call) => void): Promise<unknown> {
    const call = new Call(task, args, limits, (settled) => this.#onSettled(settled));
    observe?.(call);
    this.#unsettled.add(call);
    if (this.#closing !== undefined) call.fail('refused', poolClosed());
    else if (!this.#hasRoom()) call.fail('refused', queueFull(this.#secondsToWait()));
    else this.#enqueue(call);
    return call.result;
  }

  async ready(): Promise<void> {
    if (this.#closing !== undefined) throw poolClosed();
    if (currentTask() !== undefined) return;
    const wanted = Math.max(1, this.#minWorkers);
    this.#failedStart = undefined;
    while (this.#all.size < wanted && this.#failedStart === undefined) this.#start();
    const isUp = () => [...this.#all].filter(({ state }) => state !== 'starting').length >= wanted;
    const failed = () => (this.#all.size < wanted ? this.#failedStart : undefined);
    await this.#until(() => isUp() || failed() !== undefined || this.#closing !== undefined);
    if (this.#closing !== undefined) throw poolClosed();
    const death = failed();
    if (death !== undefined) throw workerNotStarted(death);
  }

  stats(): PoolStats {
    return {
      workers: this.#all.size,
      busy: [...this.#all].filter(({ state }) => state === 'busy').length,
      queued: this.#queue.size,
      ...this.#counts,
      wait: percentiles(this.#wait),
      run: percentiles(this.#run),
    };
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
    clearInterval(this.#tidying);
    const patience = setTimeout(() => {
      for (const call of this.#unsettled) call.giveUp(poolClosed(), 'refused');
      for (const worker of this.#all) worker.kill();
    }, grace);
    await this.#until(() => this.#unsettled.size === 0);
    for (const worker of this.#all) {
      if (worker.state === 'idle') worker.leave();
      else worker.kill();
    }
    await this.#until(() => this.#all.size === 0);
    clearTimeout(patience);
    open.delete(this);
  }

  /** Workers keep no process alive, but somebody who waits for them does. */
  async #until(condition: () => boolean): Promise<void> {
    const waiting = setInterval(() => {}, IDLE_MS);
    while (!condition()) await new Promise<void>((resolve) => this.#watchers.add(resolve));
    clearInterval(waiting);
  }

  #changed(): void {
    const watchers = [...this.#watchers];
    this.#watchers.clear();
    for (const watcher of watchers) watcher();
  }

  /**
   * A worker that is free, may yet be started or is being taken back is room enough: such a call does not wait for
   * another.
   */
  #hasRoom(): boolean {
    if (this.#queue.size < this.#maxQueue) return true;
    const taken = [...this.#all].filter(({ isTaken }) => isTaken).length;
    return this.#queue.size < this.#maxQueue + this.#workers - taken;
  }

  /** How long the backlog will take, from how long calls took so far; for the `Retry-After` header, so at least 1. */
  #secondsToWait(): number {
    const meanMs = this.#run.count > 0 ? this.#run.mean / 1000 : 1000;
    return Math.max(1, Math.ceil(((this.#queue.size + 1) * meanMs) / this.#workers / 1000));
  }

  #enqueue(call: Call): void {
    this.#await(call);
    this.#dispatch();
  }

  #await(call: Call): void {
    this.#queue.add(call);
    call.onGivenUp = () => void this.#queue.delete(call);
  }

  /** workerpool is handed a call only when a worker is idle: its own queue stays empty. */
  #dispatch(): void {
    while (this.#queue.size > 0 && this.#idle.length > 0) {
      const call = this.#queue.take() as Call;
      // It is about to be given up, unless the handler moves its deadline.
      if (call.isDue) setImmediate(() => call.ending ?? this.#enqueue(call));
      else this.#idle.pop()?.run(call);
    }
    if (this.#queue.size === 0) return;
    const starting = [...this.#all].filter(({ state }) => state === 'starting').length;
    for (let n = starting; n < this.#queue.size && this.#all.size < this.#workers && this.#canStart; n++) this.#start();
    if (this.#all.size === 0) this.#failWaiting();
  }

  #keepWarm(): void {
    if (currentTask() !== undefined) return; // In a worker, calls run in place.
    while (this.#all.size < this.#minWorkers && this.#canStart && this.#closing === undefined) this.#start();
  }

  get #canStart(): boolean {
    return this.#failedStart === undefined;
  }

  #start(): void {
    try {
      const worker = new WorkerProcess(this.#options, {
        onIdle: (idle) => {
          this.#idle.push(idle);
          this.#killedStarts = 0;
          this.#dispatch();
          this.#changed();
        },
        onReturned: (call) => this.#await(call),
        onGone: (gone, death) => this.#onGone(gone, death),
      });
      this.#all.add(worker);
    } catch {
      // Not even forked, as with an environment that is too big.
      this.#onFailedStart({ exitCode: null, signal: null });
    }
    this.#tidying ??= setInterval(() => this.#tidy(), IDLE_MS / 2).unref();
  }

  #onGone(worker: WorkerProcess, death: Death): void {
    this.#all.delete(worker);
    const place = this.#idle.indexOf(worker);
    if (place >= 0) this.#idle.splice(place, 1);
    // Killed, it may have been another's doing; one that exits by itself does so again.
    if (worker.neverReady && (death.signal === null || ++this.#killedStarts > MOST_KILLED)) this.#onFailedStart(death);
    this.#dispatch();
    this.#keepWarm();
    const succeeds = worker.reclaimed && this.#canStart && this.#closing === undefined;
    if (succeeds && this.#all.size < this.#workers) this.#start();
    this.#changed();
  }

  /** For a while no other is tried, so that there is never a storm of forks. */
  #onFailedStart(death: Death): void {
    this.#failedStart = death;
    setTimeout(() => {
      this.#failedStart = undefined;
      this.#keepWarm();
      this.#dispatch();
    }, RETRY_MS).unref();
  }

  /** Where no worker can start, waiting is no use. */
  #failWaiting(): void {
    for (let call = this.#queue.take(); call !== undefined; call = this.#queue.take()) {
      call.fail('died', workerNotStarted(this.#failedStart as Death));
    }
  }

  #tidy(): void {
    const before = performance.now() - IDLE_MS;
    for (const worker of this.#idle.slice(0, Math.max(0, this.#all.size - this.#minWorkers))) {
      if (worker.idleSince > before) continue;
      this.#idle.splice(this.#idle.indexOf(worker), 1);
      worker.leave();
    }
  }

  #onSettled(call: Call): void {
    const { ending, startedAt } = call;
    this.#unsettled.delete(call);
    this.#counts[ending as Ending]++;
    if (startedAt !== undefined) {
      const now = performance.now();
      record(this.#wait, startedAt - call.madeAt);
      record(this.#run, now - startedAt);
    }
    if (this.#unsettled.size === 0) this.#changed();
  }
}

/** For `pool.close` and `closePools`. */
export interface CloseOptions {
  /** How long the calls already made may take to finish. Default 5 s; 0 for no time. */
  readonly grace?: Time | undefined;
}

/** A pool of worker processes. Without one of their own, all offloaded functions share one pool for each process. */
export interface WorkerPool {
  /** Resolves once `minWorkers` (at least one) are up; rejects with `ERR_UNBLOCK_WORKER_DIED` when they cannot start. */
  ready(): Promise<void>;
  stats(): PoolStats;
  /**
   * Takes no more calls and lets those made finish for up to `grace`; the rest ends in
   * `ERR_UNBLOCK_POOL_CLOSED`. Resolves when no worker is left. A second call waits for the first.
   */
  close(options?: CloseOptions): Promise<void>;
  [Symbol.asyncDispose](): Promise<void>;
}

/**
 * Makes a pool for those who want their own. It never keeps the process alive while no call is under way.
 *
 * @throws TypeError `ERR_UNBLOCK_BAD_OPTION`
 */
export function createPool(options?: PoolOptions): WorkerPool {
  return new Pool(options);
}

/** Closes all pools, the default one included. */
export async function closePools(options?: CloseOptions): Promise<void> {
  parseGrace('closePools', options);
  await Promise.all([...open].map((pool) => pool.close(options)));
}

let shared: Pool | undefined;

export function defaultPool(): Pool {
  shared ??= new Pool();
  return shared;
}

function parseGrace(who: string, options: CloseOptions = {}): number {
  checkOptions(who, options, ['grace']);
  const { grace = DEFAULT_GRACE } = options;
  return parseTime(who, 'grace', grace, 0);
}

function parseEnv(who: string, env: unknown): NodeJS.ProcessEnv | undefined {
  if (env === undefined) return undefined;
  const isText = (value: unknown) => value === undefined || typeof value === 'string';
  if (typeof env === 'object' && env !== null && !Array.isArray(env) && Object.values(env).every(isText)) {
    return env as NodeJS.ProcessEnv;
  }
  throw invalid(who, 'env', 'an object of strings such as process.env', env);
}

function parseFlags(who: string, { execArgv, memory }: PoolOptions): string[] {
  if (execArgv !== undefined && !(Array.isArray(execArgv) && execArgv.every((flag) => typeof flag === 'string'))) {
    throw invalid(who, 'execArgv', 'an array of strings', execArgv);
  }
  const flags = [...(execArgv ?? inherited())];
  if (memory === undefined) return flags;
  const megabytes = Math.floor(parseSize(who, 'memory', memory) / 1024 ** 2);
  if (megabytes < 1) throw invalid(who, 'memory', 'at least "1mb"', memory);
  return [...flags.filter((flag) => !/^--max[-_]old[-_]space[-_]size/.test(flag)), `--max-old-space-size=${megabytes}`];
}

function inherited(): string[] {
  const { execArgv } = process;
  return execArgv.filter(
    (flag, at) => !NOT_FOR_WORKERS.test(flag) && !SCRIPT_FLAG.test(flag) && !SCRIPT_FLAG.test(execArgv[at - 1] ?? ''),
  );
}

/** Node's histograms hold whole numbers from 1: microseconds. */
function record(histogram: RecordableHistogram, ms: number): void {
  histogram.record(Math.max(1, Math.round(ms * 1000)));
}

function percentiles(histogram: RecordableHistogram): Percentiles {
  const at = (percent: number) => (histogram.count > 0 ? histogram.percentile(percent) / 1000 : Number.NaN);
  return { p50: at(50), p90: at(90), p99: at(99), max: at(100) };
}
