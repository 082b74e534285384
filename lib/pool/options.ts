import { availableParallelism } from 'node:os';
import { checkOptions, invalid, parseInteger, parseSize, type Size } from '../options';
import { inheritedFlags } from './inherited';
import type { WorkerProcessOptions } from './worker-process';

export interface PoolOptions {
  /** How many worker processes there may be. Default: the available parallelism less one, at least one. */
  readonly workers?: number | undefined;
  /** How many are kept warm, dead ones replaced. Default 0: workers start with the first calls. */
  readonly minWorkers?: number | undefined;
  /**
   * This many more are kept warm, to take the place of a killed one at once: at most `workers` run calls. Default 0:
   * the call after a kill waits for a process to start.
   */
  readonly spare?: number | undefined;
  /** How many calls may wait; one more is refused with 503. Default 1000; 0 means no waiting. */
  readonly maxQueue?: number | undefined;
  /** A cap on each worker's JavaScript heap, such as `'512mb'`; a worker that exceeds it dies. Default: Node's own. */
  readonly memory?: Size | undefined;
  /**
   * The workers' environment. Default: this process's, its `NODE_OPTIONS` less the inspector and all that they preload
   * but loaders of code. A `NODE_OPTIONS` of your own is taken as it is.
   */
  readonly env?: NodeJS.ProcessEnv | undefined;
  /**
   * Node's flags for the workers, such as `['--import', 'tsx']`. Default: this process's, so that its loaders work, less
   * its inspector's and the agents that monitor apps.
   */
  readonly execArgv?: readonly string[] | undefined;
}

/** What a pool works with: the options checked, what was left out filled in. */
export interface PoolSettings {
  readonly workers: number;
  readonly minWorkers: number;
  readonly spare: number;
  readonly maxQueue: number;
  readonly worker: WorkerProcessOptions;
}

const DEFAULT_MAX_QUEUE = 1000;

/** @throws TypeError `ERR_UNBLOCK_BAD_OPTION` */
export function parsePoolOptions(options: PoolOptions, who = 'createPool'): PoolSettings {
  checkOptions(who, options, ['workers', 'minWorkers', 'spare', 'maxQueue', 'memory', 'env', 'execArgv']);
  const {
    workers = Math.max(1, availableParallelism() - 1),
    minWorkers = 0,
    spare = 0,
    maxQueue = DEFAULT_MAX_QUEUE,
    env,
  } = options;
  const settings = {
    workers: parseInteger(who, 'workers', workers, 1),
    minWorkers: parseInteger(who, 'minWorkers', minWorkers, 0),
    spare: parseInteger(who, 'spare', spare, 0),
    maxQueue: parseInteger(who, 'maxQueue', maxQueue, 0),
    worker: { env: parseEnv(who, env), execArgv: parseFlags(who, options) },
  };
  if (settings.minWorkers > settings.workers) {
    throw invalid(who, 'minWorkers', `at most workers (${settings.workers})`, minWorkers);
  }
  return settings;
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
  const flags = [...(execArgv ?? inheritedFlags())];
  if (memory === undefined) return flags;
  const megabytes = Math.floor(parseSize(who, 'memory', memory) / 1024 ** 2);
  if (megabytes < 1) throw invalid(who, 'memory', 'at least "1mb"', memory);
  return [...flags.filter((flag) => !/^--max[-_]old[-_]space[-_]size/.test(flag)), `--max-old-space-size=${megabytes}`];
}
