import { background } from '../background';
import { type Death, poolClosed, queueFull, workerNotStarted } from '../errors';
import type { Parcel } from '../wire';
import { currentTask } from '../worker/current-task';
import { backlog } from './admission';
import { Call, type CallLimits, type Ending, type Task } from './call';
import { Condition } from './condition';
import { checkReadable } from './inherited';
import { type PoolOptions, type PoolSettings, parsePoolOptions } from './options';
import { addPool, type CloseOptions, parseGrace, removePool, type TaskPool, type TaskSource } from './pools';
import { DeadlineQueue } from './queue';
import { CallStats, type PoolStats } from './stats';
import { WorkerProcess, whyNotReady } from './worker-process';

/** The pause after a worker that could not start. */
const RETRY_MS = 1000;
/** So many workers in a row may be killed before they are ready; one more is a failed start. */
const MOST_KILLED = 5;
/** Workers beyond `minWorkers` that had nothing to do for this long are given back. */
const IDLE_MS = 60_000;

/** Worker processes of this machine: what `createPool` makes. */
export class Pool implements TaskPool {
  readonly #settings: PoolSettings;
  readonly #all = new Set<WorkerProcess>();
  /** The last one to finish is the first to run again: it is the warmest, and the others can be given back. */
  readonly #idle: WorkerProcess[] = [];
  /** What workers import before they take calls. */
  readonly #modules = new Set<string>();
  readonly #queue = new DeadlineQueue<Call>();
  readonly #unsettled = new Set<Call>();
  readonly #calls = new CallStats();
  readonly #state = new Condition();
  /** While it is set, no worker is started. Its cause is found out after it is set. */
  #failedStart: { readonly death: Death; cause: unknown } | undefined;
  /** How many in a row were killed before they were ready. */
  #killedStarts = 0;
  #closing: Promise<void> | undefined;
  #tidying: NodeJS.Timeout | undefined;

  constructor(options: PoolOptions = {}) {
    this.#settings = parsePoolOptions(options);
    addPool(this);
    this.#keepWarm();
  }

  accept(source: TaskSource): void {
    if (source.kind !== 'module') return;
    checkReadable(source.url, this.#settings.worker);
    this.#modules.add(source.url);
  }

  submit(task: Task, args: Parcel, limits: CallLimits, observe?: (call: Call) => void): Promise<unknown> {
    const call = new Call(task, args, limits, (settled) => this.#onSettled(settled));
    observe?.(call);
    const refusal = this.#refusal(call);
    this.#unsettled.add(call);
    if (refusal === undefined) this.#enqueue(call);
    else call.fail('refused', refusal);
    return call.result;
  }

  #refusal(call: Call): Error | undefined {
    if (this.#closing !== undefined) return poolClosed();
    const refusal = call.task.admission?.refusal(call, this.#startsIn(call), performance.now());
    return refusal ?? (this.#hasRoom() ? undefined : queueFull(this.#secondsToWait()));
  }

  async ready(): Promise<void> {
    if (this.#closing !== undefined) throw poolClosed();
    if (currentTask() !== undefined) return;
    const { minWorkers, spare } = this.#settings;
    const wanted = Math.max(1, minWorkers) + spare;
    if (this.#hopeless !== undefined) this.#failedStart = undefined;
    while (this.#alive < wanted && this.#canStart) this.#start();
    for (const worker of this.#idle.filter(({ lacksModules }) => lacksModules)) {
      this.#takeFromIdle(worker);
      void worker.prepare();
    }
    const isUp = () => this.#alive - this.#count('starting') >= wanted;
    const failed = () => (this.#alive < wanted ? this.#hopeless : undefined);
    await this.#state.until(() => isUp() || failed() !== undefined || this.#closing !== undefined);
    if (this.#closing !== undefined) throw poolClosed();
    const { death, cause } = failed() ?? {};
    if (death !== undefined) throw workerNotStarted(death, cause);
  }

  stats(): PoolStats {
    return {
      workers: this.#alive - this.#spares,
      spare: this.#spares,
      busy: this.#count('busy'),
      queued: this.#queue.size,
      ...this.#calls.report(),
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
    await this.#state.until(() => this.#unsettled.size === 0);
    for (const worker of this.#all) {
      if (worker.state === 'idle') worker.leave();
      else worker.kill();
    }
    await this.#state.until(() => this.#all.size === 0);
    clearTimeout(patience);
    removePool(this);
  }

  /** Resolves once as many more calls could begin, or the pool closes. */
  async whenIdle(wanted: () => number): Promise<void> {
    await this.#state.until(() => this.#room >= wanted() || this.#closing !== undefined);
  }

  /** How many calls could begin at once. */
  get #room(): number {
    return Math.min(this.#idle.length, this.#settings.workers - this.#count('busy'));
  }

  /**
   * A worker that is free, may yet be started or is being taken back is room enough: such a call does not wait for
   * another.
   */
  #hasRoom(): boolean {
    return this.#queue.size < this.#settings.maxQueue + this.#free;
  }

  get #free(): number {
    return this.#settings.workers - [...this.#all].filter(({ isTaken }) => isTaken).length;
  }

  /** In how many milliseconds a worker has time for a call with this deadline. */
  #startsIn({ deadlineAt }: Call): number {
    if (this.#queue.size < this.#free) return 0;
    return backlog(this.#unsettled, deadlineAt, this.#settings.workers, performance.now());
  }

  /** How long the backlog will take, from how long calls took so far; for the `Retry-After` header, so at least 1. */
  #secondsToWait(): number {
    const meanMs = this.#calls.meanRunMs ?? 1000;
    return Math.max(1, Math.ceil(((this.#queue.size + 1) * meanMs) / this.#settings.workers / 1000));
  }

  #enqueue(call: Call): void {
    this.#putInQueue(call);
    this.#dispatch();
  }

  #putInQueue(call: Call): void {
    this.#queue.add(call);
    call.onGivenUp = () => void this.#queue.delete(call);
  }

  /** workerpool is handed a call only when a worker is idle: its own queue stays empty. */
  #dispatch(): void {
    while (this.#queue.size > 0 && this.#room > 0) {
      const call = this.#queue.take() as Call;
      // It is about to be given up, unless the handler moves its deadline.
      if (call.isDue) setImmediate(() => call.ending ?? this.#enqueue(call));
      else this.#begin(call);
    }
    this.#keepWarm();
    if (this.#all.size === 0 && this.#hopeless !== undefined) this.#failWaiting(this.#hopeless);
  }

  #begin(call: Call): void {
    const refusal = call.task.admission?.refusalAtTurn(call, this.#startsIn(call), performance.now());
    if (refusal === undefined) this.#idle.pop()?.run(call);
    else call.fail('refused', refusal);
  }

  #count(state: WorkerProcess['state']): number {
    return [...this.#all].filter((worker) => worker.state === state).length;
  }

  /** Those that take calls, now or soon. */
  get #alive(): number {
    return this.#all.size - this.#count('leaving');
  }

  get #spares(): number {
    return Math.min(this.#settings.spare, this.#alive - this.#count('busy'));
  }

  /** As many as there is work for, at least `minWorkers`; and the spare ones. */
  get #wanted(): number {
    const { workers, minWorkers, spare } = this.#settings;
    const needed = this.#count('busy') + this.#queue.size;
    return this.#closing === undefined
      ? Math.min(workers, Math.max(minWorkers, needed)) + spare
      : Math.min(workers, needed);
  }

  #keepWarm(atLeast = 0): void {
    if (currentTask() !== undefined) return; // In a worker, calls run in place.
    const wanted = Math.max(this.#closing === undefined ? atLeast : 0, this.#wanted);
    while (this.#all.size < wanted && this.#canStart) this.#start();
  }

  get #canStart(): boolean {
    return this.#failedStart === undefined;
  }

  get #hopeless() {
    return this.#failedStart?.cause === undefined ? undefined : this.#failedStart;
  }

  #start(): void {
    try {
      const worker = new WorkerProcess(this.#settings.worker, this.#modules, {
        onIdle: (idle) => {
          this.#idle.push(idle);
          this.#killedStarts = 0;
          this.#dispatch();
          this.#state.changed();
        },
        onReturned: (call) => this.#putInQueue(call),
        onKilled: (killed) => this.#onKilled(killed),
        onGone: (gone, death) => this.#onGone(gone, death),
      });
      this.#all.add(worker);
    } catch (error) {
      // Not even forked, as with an environment that is too big.
      void this.#onFailedStart({ exitCode: null, signal: null }, error);
    }
    this.#tidying ??= background.runInAsyncScope(setInterval, undefined, () => this.#tidy(), IDLE_MS / 2).unref();
  }

  #takeFromIdle(worker: WorkerProcess): void {
    const place = this.#idle.indexOf(worker);
    if (place >= 0) this.#idle.splice(place, 1);
  }

  /** A spare worker takes over before the system has ended the killed one. */
  #onKilled(worker: WorkerProcess): void {
    this.#takeFromIdle(worker);
    if (worker.reclaimed) this.#dispatch();
  }

  #onGone(worker: WorkerProcess, death: Death): void {
    this.#all.delete(worker);
    this.#takeFromIdle(worker);
    // A signal may come from elsewhere, so another worker is tried; one that failed by itself would fail again.
    const { whyNotReady: reason } = worker;
    const isOwnFault = reason !== undefined || (death.signal === null && !worker.endedByModule);
    if (worker.neverReady && (isOwnFault || ++this.#killedStarts > MOST_KILLED))
      void this.#onFailedStart(death, reason);
    this.#dispatch();
    // Started ahead of need: a pool whose worker was killed will need one again.
    const { workers, spare } = this.#settings;
    if (worker.reclaimed) this.#keepWarm(Math.min(this.#all.size + 1, workers + spare));
    this.#state.changed();
  }

  /** Pauses before the next start, so that there is never a storm of forks. */
  async #onFailedStart(death: Death, reason: unknown): Promise<void> {
    if (this.#failedStart !== undefined) return;
    const failed = { death, cause: reason };
    this.#failedStart = failed;
    failed.cause ??= await whyNotReady(this.#settings.worker, death);
    setTimeout(() => {
      // `ready()` may have begun another try already.
      if (this.#failedStart === failed) this.#failedStart = undefined;
      this.#dispatch();
    }, RETRY_MS).unref();
    this.#dispatch();
    this.#state.changed();
  }

  /** No worker can start: calls would wait in vain. */
  #failWaiting({ death, cause }: { death: Death; cause: unknown }): void {
    for (let call = this.#queue.take(); call !== undefined; call = this.#queue.take()) {
      call.fail('died', workerNotStarted(death, cause));
    }
  }

  #tidy(): void {
    const before = performance.now() - IDLE_MS;
    for (const worker of this.#idle.slice(0, Math.max(0, this.#alive - this.#wanted))) {
      if (worker.idleSince > before) continue;
      this.#takeFromIdle(worker);
      worker.leave();
    }
  }

  #onSettled(call: Call): void {
    this.#unsettled.delete(call);
    this.#calls.add(call.ending as Ending, call);
    if (this.#unsettled.size === 0) this.#state.changed();
  }
}
