import { existsSync, statSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import type { Request, RequestHandler } from 'express';
import { badOption } from './errors';
import { checkOptions, invalid, parseChoice, parseFunction, parseTime, type Time } from './options';
import { callerOf } from './pool/caller';
import { isPool, type TaskPool, type WorkerPool } from './pool/pools';
import { Recent } from './recent';
import { handlerOf } from './request/handler';
import { currentTask, type TaskContext } from './worker/current-task';
import type { InPlace } from './worker/in-place';

export type { TaskContext };

export interface OffloadOptions<Args extends unknown[] = any[]> {
  /**
   * The longest a call may take from the moment it is made, waiting for a worker included. Default 30 s. The deadline
   * of the request it is made in ends it sooner.
   */
  readonly timeout?: Time | undefined;
  /** Default: one pool that all offloaded functions of this process share. */
  readonly pool?: WorkerPool | undefined;
  /**
   * How a worker is taken back from a call that was given up. `'interrupt'` (default for functions) breaks the running
   * JavaScript and keeps the warm process. `'kill'` (default for modules, whose half-done state nobody should inherit)
   * ends the process and starts another. An interrupt that does not work within 100 ms becomes a kill.
   */
  readonly reclaim?: 'interrupt' | 'kill' | undefined;
  /**
   * How big an input is: characters, rows, any number of 0 or more that the run time grows with. Run times are learnt
   * by it, and a call that would not be done within its limit is refused before it waits, with
   * `ERR_UNBLOCK_TOO_SLOW` (413) or `ERR_UNBLOCK_OVERLOADED` (503). It is called in this process, for every call.
   */
  readonly size?: ((...args: Args) => number) | undefined;
  /**
   * What `size` is for: `'enforce'` (default) refuses, `'observe'` refuses nothing and counts in `pool.stats()` what it
   * would have refused, `'off'` does as if there were no `size`.
   */
  readonly admission?: 'enforce' | 'observe' | 'off' | undefined;
}

export interface CallOptions {
  /** Gives the call up; it then rejects with the signal's reason. */
  readonly signal?: AbortSignal | undefined;
  /** As the option of `offload`, for one call. */
  readonly timeout?: Time | undefined;
  /**
   * Hears what the task reports with `progress(value)`, in the async context of the call. What it throws or rejects
   * with is dropped.
   */
  readonly onProgress?: ((value: any) => void) | undefined;
  /**
   * True for a call that belongs to no request, though it is made inside one: neither its deadline nor its client's
   * leaving ends it. For what a request does for the whole app, such as filling a cache. Default false.
   */
  readonly detached?: boolean | undefined;
}

/** A function that runs in a worker process: the parameters and the result of the original, as a promise. */
export interface Offloaded<Args extends unknown[], Result> {
  /**
   * Rejects with what the task threw, or with `ERR_UNBLOCK_TIMEOUT` (504), `ERR_UNBLOCK_CLIENT_CLOSED` (499),
   * `ERR_UNBLOCK_QUEUE_FULL` (503), `ERR_UNBLOCK_WORKER_DIED` (500), `ERR_UNBLOCK_POOL_CLOSED` (503),
   * `ERR_UNBLOCK_NOT_SERIALIZABLE` (500) or, with `size`, `ERR_UNBLOCK_TOO_SLOW` (413) and `ERR_UNBLOCK_OVERLOADED` (503).
   */
  (...args: Args): Promise<Result>;
  /** One call with a signal, a time or a progress listener of its own. */
  with(options: CallOptions): (...args: Args) => Promise<Result>;
  /**
   * An Express handler that calls with what `pick` takes from the request, and sends the result: strings as text,
   * `Buffer` and `Uint8Array` as octets, `undefined` as 204, everything else as JSON. Errors go to `next`.
   */
  handler<Params = Request['params']>(
    pick: (req: Request<Params>) => Readonly<Args> | Promise<Readonly<Args>>,
  ): RequestHandler<Params>;
  /**
   * The largest size that 99 of 100 runs have done within `time`; `undefined` while it is not known, and without `size`.
   */
  manages(time: Time): number | undefined;
}

/** What `offload.module` gives: an offloaded function for each function that the module exports. */
export type OffloadedModule<Module> = {
  readonly [Name in keyof Module as Module[Name] extends (...args: any[]) => unknown
    ? Name
    : never]: Module[Name] extends (...args: infer Args) => infer Result ? Offloaded<Args, Awaited<Result>> : never;
};

/** Moves work to worker processes: one function, or all that a module exports. */
export interface Offload {
  /**
   * Makes a function run in a worker process, so that the event loop stays free while it computes. It runs from its
   * source text, and must stand on its own; what cannot work is refused here. Behind `timeout()`, or in `handler`, its
   * calls inherit the request's deadline: they are stopped when it passes or when the client leaves.
   *
   * Arguments and results are cloned as `structuredClone` does, so that `Map`, `Date`, `BigInt`, `Buffer` and typed
   * arrays arrive as themselves.
   *
   * @throws TypeError `ERR_UNBLOCK_NOT_SELF_CONTAINED`, `ERR_UNBLOCK_BAD_OPTION`
   */
  <Args extends unknown[], Result>(
    fn: (this: TaskContext, ...args: Args) => Result,
    options?: OffloadOptions<Args>,
  ): Offloaded<Args, Awaited<Result>>;
  /**
   * Offloads every function that a module exports: the form for real code, which has imports, warm caches and tests of
   * its own. Each worker imports the module once, before it takes calls and in no call's time. A module that cannot be
   * imported fails its own calls with its own error.
   *
   * @param url a file URL or an absolute path of an ES or CommonJS module
   * @throws TypeError `ERR_UNBLOCK_BAD_OPTION`; calling what the module does not export rejects with
   * `ERR_UNBLOCK_NO_SUCH_EXPORT`
   */
  module<Module extends object = Record<string, (...args: any[]) => unknown>>(
    url: URL | string,
    options?: OffloadOptions,
  ): OffloadedModule<Module>;
}

const DEFAULT_TIMEOUT = 30_000;
const OPTIONS = ['timeout', 'pool', 'reclaim', 'size', 'admission'];

/** Names that `await`, `JSON.stringify` and test frameworks look up on any object, and call. */
const NO_EXPORTS = new Set(['then', 'toJSON', 'asymmetricMatch']);

export const offload = Object.assign(
  function offload(fn: InPlace, options: OffloadOptions = {}) {
    parseFunction('offload', 'the first argument', fn);
    const settings = parseOptions('offload', options, 'interrupt');
    const { name } = fn;
    if (currentTask() !== undefined) return offloaded(name, here().inPlace(fn));
    return offloaded(name, workers().functionInWorker(fn, callerOf(offload), settings));
  },
  {
    module: function offloadModule(url: URL | string, options: OffloadOptions = {}) {
      const href = parseModule('offload.module', 'url', url);
      const settings = parseOptions('offload.module', options, 'kill');
      const functions = new Recent<Offloaded<unknown[], unknown>>();
      const startOf =
        currentTask() === undefined ? workers().moduleInWorker(href, settings) : here().moduleInPlace(href);
      const make = (name: string) => offloaded(name, startOf(name));
      // Makes its text without `toString` and `valueOf`, which may be exports.
      const plain = Object.defineProperty({}, Symbol.toPrimitive, { value: () => '[object Object]' });
      return new Proxy(plain, {
        get(target, name) {
          if (typeof name === 'symbol' || NO_EXPORTS.has(name)) return Reflect.get(target, name);
          return functions.get(name, make);
        },
      });
    },
  },
) as Offload;

/** The parser and workerpool are loaded by the first function that is offloaded. */
function workers() {
  return require('./pool/in-worker') as typeof import('./pool/in-worker');
}

function here() {
  return require('./worker/in-place') as typeof import('./worker/in-place');
}

/** @internal */
export interface Settings {
  readonly timeout: number;
  readonly pool: TaskPool | undefined;
  readonly reclaim: 'interrupt' | 'kill';
  readonly size: OffloadOptions['size'];
  readonly admission: 'enforce' | 'observe' | 'off';
}

/** @internal */
export type ParsedCall = Omit<CallOptions, 'timeout'> & { readonly timeout?: number | undefined };
/** @internal Makes a call: here in a worker, in a worker everywhere else. */
export interface Start {
  (args: unknown[], options: ParsedCall): Promise<unknown>;
  manages?(limit: number): number | undefined;
}

function parseOptions(who: string, options: OffloadOptions, defaultReclaim: Settings['reclaim']): Settings {
  if (isPool(options)) throw badOption(`${who}: options must be an object such as { pool }, got the pool itself`);
  checkOptions(who, options, OPTIONS);
  const { pool, timeout = DEFAULT_TIMEOUT, reclaim = defaultReclaim, size, admission = 'enforce' } = options;
  if (pool !== undefined && !isPool(pool)) throw invalid(who, 'pool', 'made by createPool()', pool);
  return {
    timeout: parseTime(who, 'timeout', timeout),
    pool,
    reclaim: parseChoice(who, 'reclaim', reclaim, ['interrupt', 'kill']),
    size: size === undefined ? undefined : parseFunction(who, 'size', size),
    admission: parseChoice(who, 'admission', admission, ['enforce', 'observe', 'off']),
  };
}

/** @internal */
export function parseModule(who: string, option: string, url: unknown): string {
  const href =
    url instanceof URL ? url.href : typeof url === 'string' && path.isAbsolute(url) ? pathToFileURL(url).href : url;
  const file = typeof href === 'string' ? fileOf(href) : undefined;
  if (typeof href !== 'string' || file === undefined) {
    const expected = "a file URL such as new URL('./tasks.js', import.meta.url) or an absolute path";
    throw invalid(who, option, expected, url);
  }
  // Under a TypeScript loader, './tasks.js' stands for a file named tasks.ts.
  const names = [file, file.replace(/\.([cm]?)jsx?$/, '.$1ts'), file.replace(/\.jsx?$/, '.tsx')];
  if (!names.some(isFile)) throw invalid(who, option, 'a module that exists', file);
  return href;
}

function fileOf(href: string): string | undefined {
  try {
    return fileURLToPath(href);
  } catch {
    return undefined; // It has another scheme or a host, or a name contains an encoded slash.
  }
}

function isFile(name: string): boolean {
  return existsSync(name) && statSync(name).isFile();
}

function parseCall(options: CallOptions): ParsedCall {
  checkOptions('with', options, ['signal', 'timeout', 'onProgress', 'detached']);
  const { signal, timeout, onProgress, detached = false } = options;
  if (signal !== undefined && typeof signal?.addEventListener !== 'function') {
    throw invalid('with', 'signal', 'an AbortSignal', signal);
  }
  if (onProgress !== undefined) parseFunction('with', 'onProgress', onProgress);
  parseChoice('with', 'detached', detached, [true, false]);
  const time = timeout === undefined ? undefined : parseTime('with', 'timeout', timeout);
  return { signal, onProgress, detached, timeout: time };
}

function offloaded(name: string, start: Start): Offloaded<unknown[], unknown> {
  const run = async (...args: unknown[]) => start(args, {});
  Object.defineProperty(run, 'name', { value: name, configurable: true });
  return Object.assign(run, {
    with(options: CallOptions) {
      const parsed = parseCall(options);
      return async (...args: unknown[]) => start(args, parsed);
    },
    handler(pick: (req: Request<any>) => readonly unknown[] | Promise<readonly unknown[]>): RequestHandler<any> {
      if (isRequest(pick)) throw badOption(`handler: ${HANDLER_IS_MADE}`);
      parseFunction('handler', 'pick', pick);
      return handlerOf(async (req) => start(parsePicked(await pick(req)), {}));
    },
    manages(time: Time) {
      return start.manages?.(parseTime('manages', 'time', time));
    },
  });
}

const HANDLER_IS_MADE =
  'pick must be a function, got a request: the handler of a route is what run.handler((req) => [req.body]) returns';

function isRequest(value: unknown): boolean {
  return typeof value === 'object' && value !== null && 'headers' in value && 'method' in value;
}

function parsePicked(picked: readonly unknown[]): unknown[] {
  if (Array.isArray(picked)) return picked;
  throw invalid('handler', 'what pick returns', 'an array of arguments', picked);
}
