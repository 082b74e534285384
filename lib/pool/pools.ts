import { existsSync } from 'node:fs';
import { inBundle, loadErrors } from '../errors';
import { checkOptions, parseTime, type Time } from '../options';
import type { Parcel, TaskDefinition } from '../wire';
import { SCRIPT } from '../worker/current-task';
import type { Call, CallLimits, Task } from './call';
import type { PoolOptions } from './options';
import type { PoolStats } from './stats';

const DEFAULT_GRACE = 5000;

/** For `pool.close` and `closePools`. */
export interface CloseOptions {
  /** How long the calls already made may take to finish. Default 5 s; 0 for no time. */
  readonly grace?: Time | undefined;
}

/** A pool of worker processes. Without one of their own, all offloaded functions share one pool for each process. */
export interface WorkerPool {
  /**
   * Resolves once `minWorkers` (at least one) and `spare` workers are up, and have imported the modules offloaded to
   * this pool so far; rejects with `ERR_UNBLOCK_WORKER_DIED` when they cannot start.
   */
  ready(): Promise<void>;
  stats(): PoolStats;
  /**
   * Takes no more calls and lets those made finish for up to `grace`; the rest ends in
   * `ERR_UNBLOCK_POOL_CLOSED`. Resolves when no worker is left. A second call waits for the first.
   */
  close(options?: CloseOptions): Promise<void>;
  [Symbol.asyncDispose](): Promise<void>;
}

/** What is offloaded: a function, or all that a module exports. */
export type TaskSource =
  | Pick<TaskDefinition & { kind: 'function' }, 'kind' | 'name'>
  | Pick<TaskDefinition & { kind: 'module' }, 'kind' | 'url'>;

/** @internal What `offload` asks of a pool, wherever its workers run; users see `WorkerPool`. */
export interface TaskPool extends WorkerPool {
  /**
   * Hears of everything that is offloaded to it, where it is wrapped.
   *
   * @throws TypeError for what this pool cannot run
   */
  accept(source: TaskSource): void;
  /**
   * Runs a task; resolves or rejects with how it ended.
   *
   * @param limits of these, the request's deadline may be moved, or cleared, while the call is under way
   * @param observe gets the call, whose times and ending tracing reads
   */
  submit(task: Task, args: Parcel, limits: CallLimits, observe?: (call: Call) => void): Promise<unknown>;
}

const known = new WeakSet<object>();
const open = new Set<TaskPool>();

/** Each pool says so when it is made: `offload` takes no others, and `closePools` closes it. */
export function addPool(pool: TaskPool): void {
  known.add(pool);
  open.add(pool);
}

/** A closed pool is one still, whose calls are refused. */
export function removePool(pool: TaskPool): void {
  open.delete(pool);
}

export function isPool(value: unknown): value is TaskPool {
  return known.has(value as object);
}

/**
 * Makes a pool for those who want their own. It never keeps the process alive while no call is under way.
 *
 * @throws TypeError `ERR_UNBLOCK_BAD_OPTION`
 */
export function createPool(options?: PoolOptions): WorkerPool {
  return makePool(options);
}

/** Loads workerpool, which apps that offload nothing do without. */
function makePool(options?: PoolOptions): TaskPool {
  if (!existsSync(SCRIPT)) throw inBundle();
  loadErrors();
  const { Pool } = require('./pool') as typeof import('./pool');
  return new Pool(options);
}

let shared: TaskPool | undefined;

/**
 * The pool of all functions that were offloaded without one of their own, to be asked for its `stats()` and `ready()`.
 * It is made by the first of these functions, or here. Its workers start with the first calls.
 */
export function defaultPool(): WorkerPool {
  return sharedPool();
}

/** @internal */
export function sharedPool(): TaskPool {
  shared ??= makePool();
  return shared;
}

/** Closes all pools, the default one included. */
export async function closePools(options?: CloseOptions): Promise<void> {
  parseGrace('closePools', options);
  await Promise.all([...open].map((pool) => pool.close(options)));
}

export function parseGrace(who: string, options: CloseOptions = {}): number {
  checkOptions(who, options, ['grace']);
  const { grace = DEFAULT_GRACE } = options;
  return parseTime(who, 'grace', grace, 0);
}
