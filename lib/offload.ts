import { AsyncResource } from 'node:async_hooks';
import { existsSync, statSync } from 'node:fs';
import { IncomingMessage, ServerResponse } from 'node:http';
import path from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import type { Request, RequestHandler } from 'express';
import { notSerializable } from './errors';
import { checkOptions, invalid, parseChoice, parseFunction, parseTime, type Time } from './options';
import type { Task } from './pool/call';
import { callerOf, lineOf } from './pool/caller';
import { FadingPeak } from './pool/peak';
import { defaultPool, Pool, type WorkerPool } from './pool/pool';
import { sourceOf } from './pool/source';
import { submitTraced } from './pool/tracing';
import { contexts } from './request/context';
import { handlerOf } from './request/handler';
import { type Parcel, type TaskDefinition, wrap } from './wire';
import { currentTask, type TaskContext } from './worker/current-task';
import { harmless, type InPlace, importer, inPlace } from './worker/in-place';

export type { TaskContext };

export interface OffloadOptions {
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
}

/** A function that runs in a worker process: the parameters and the result of the original, as a promise. */
export interface Offloaded<Args extends unknown[], Result> {
  /**
   * Rejects with what the task threw, or with `ERR_UNBLOCK_TIMEOUT` (504), `ERR_UNBLOCK_CLIENT_CLOSED` (499),
   * `ERR_UNBLOCK_QUEUE_FULL` (503), `ERR_UNBLOCK_WORKER_DIED` (500), `ERR_UNBLOCK_POOL_CLOSED` (503) or
   * `ERR_UNBLOCK_NOT_SERIALIZABLE` (500).
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
    options?: OffloadOptions,
  ): Offloaded<Args, Awaited<Result>>;
  /**
   * Offloads every function that a module exports: the form for real code, which has imports, warm caches and tests of
   * its own. The module is loaded in the workers only, once in each.
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
const OPTIONS = ['timeout', 'pool', 'reclaim'];

/** What others ask any object for, and call: `await`, `JSON.stringify`, test frameworks. */
const NO_EXPORTS = new Set(['then', 'toJSON', 'asymmetricMatch']);

export const offload = Object.assign(
  function offload(fn: InPlace, options: OffloadOptions = {}) {
    parseFunction('offload', 'the first argument', fn);
    const settings = parseOptions('offload', options, 'interrupt');
    const { name } = fn;
    if (currentTask() !== undefined) return offloaded(name, inPlace(fn));

    const { file, strict } = callerOf(offload);
    const source = sourceOf(fn, strict);
    const line = lineOf(source.source, file);
    const definition = { kind: 'function' as const, name: name || 'anonymous', file, line, ...source };
    return offloaded(name, inWorker(definition, settings));
  },
  {
    module: function offloadModule(url: URL | string, options: OffloadOptions = {}) {
      const href = parseModule(url);
      const settings = parseOptions('offload.module', options, 'kill');
      const functions = new Map<string, Offloaded<unknown[], unknown>>();

      const make = (name: string) => {
        const definition = { kind: 'module' as const, name, url: href };
        const start = currentTask() === undefined ? inWorker(definition, settings) : inPlace(importer(href, name));
        return offloaded(name, start);
      };
      // Its text is made without `toString` and `valueOf`, which may be exports.
      const plain = Object.defineProperty({}, Symbol.toPrimitive, { value: () => '[object Object]' });
      return new Proxy(plain, {
        get(target, name) {
          if (typeof name === 'symbol' || NO_EXPORTS.has(name)) return Reflect.get(target, name);
          const made = functions.get(name) ?? make(name);
          functions.set(name, made);
          return made;
        },
      });
    },
  },
) as Offload;

interface Settings {
  readonly timeout: number;
  readonly pool: Pool | undefined;
  readonly reclaim: 'interrupt' | 'kill';
}

type ParsedCall = Omit<CallOptions, 'timeout'> & { readonly timeout?: number | undefined };
type Start = (args: unknown[], options: ParsedCall) => Promise<unknown>;

function parseOptions(who: string, options: OffloadOptions, defaultReclaim: Settings['reclaim']): Settings {
  checkOptions(who, options, OPTIONS);
  const { pool, timeout = DEFAULT_TIMEOUT, reclaim = defaultReclaim } = options;
  if (pool !== undefined && !(pool instanceof Pool)) throw invalid(who, 'pool', 'made by createPool()', pool);
  return {
    timeout: parseTime(who, 'timeout', timeout),
    pool,
    reclaim: parseChoice(who, 'reclaim', reclaim, ['interrupt', 'kill']),
  };
}

function parseModule(url: unknown): string {
  const href =
    url instanceof URL ? url.href : typeof url === 'string' && path.isAbsolute(url) ? pathToFileURL(url).href : url;
  const file = typeof href === 'string' ? fileOf(href) : undefined;
  if (typeof href !== 'string' || file === undefined) {
    throw invalid(
      'offload.module',
      'url',
      "a file URL such as new URL('./tasks.js', import.meta.url) or an absolute path",
      url,
    );
  }
  // Under a TypeScript loader, './tasks.js' stands for a file named tasks.ts.
  const names = [file, file.replace(/\.([cm]?)jsx?$/, '.$1ts'), file.replace(/\.jsx?$/, '.tsx')];
  if (!names.some(isFile)) throw invalid('offload.module', 'url', 'a module that exists', file);
  return href;
}

function fileOf(href: string): string | undefined {
  try {
    return fileURLToPath(href);
  } catch {
    return undefined; // Of another scheme or another host, or with a slash within a name.
  }
}

function isFile(name: string): boolean {
  return existsSync(name) && statSync(name).isFile();
}

function parseCall(options: CallOptions): ParsedCall {
  checkOptions('with', options, ['signal', 'timeout', 'onProgress']);
  const { signal, timeout, onProgress } = options;
  if (signal !== undefined && typeof signal?.addEventListener !== 'function') {
    throw invalid('with', 'signal', 'an AbortSignal', signal);
  }
  if (onProgress !== undefined) parseFunction('with', 'onProgress', onProgress);
  return { signal, onProgress, timeout: timeout === undefined ? undefined : parseTime('with', 'timeout', timeout) };
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
      parseFunction('handler', 'pick', pick);
      return handlerOf(async (req) => start(parsePicked(await pick(req)), {}));
    },
  });
}

function parsePicked(picked: readonly unknown[]): unknown[] {
  if (Array.isArray(picked)) return picked;
  throw invalid('handler', 'what pick returns', 'an array of arguments', picked);
}

/** The same text from the same place is the same task, however often it is offloaded. */
const taskIds = new Map<string, number>();

function idOf(definition: TaskDefinition): number {
  const key = JSON.stringify(definition);
  const id = taskIds.get(key) ?? taskIds.size + 1;
  taskIds.set(key, id);
  return id;
}

function inWorker(definition: TaskDefinition, settings: Settings): Start {
  const { name } = definition;
  const task: Task = { id: idOf(definition), definition, reclaim: settings.reclaim, peak: new FadingPeak() };

  return async function start(args, { signal, timeout, onProgress }) {
    const context = contexts.getStore();
    // Error handlers have no deadline: their answer is what comes of one that has passed.
    const deadline = context?.deadline.context === context ? context?.deadline : undefined;
    const signals = [signal, deadline?.signal].filter((one) => one !== undefined);
    for (const one of signals) one.throwIfAborted();
    const packed = packArguments(name, args);
    const limits = {
      timeout: timeout ?? settings.timeout,
      request: deadline,
      signals,
      onProgress: onProgress === undefined ? undefined : AsyncResource.bind(harmless(onProgress)),
    };
    return submitTraced(settings.pool ?? defaultPool(), task, packed, limits);
  };
}

const NOT_A_HANDLER =
  'it is a request or a response. As a handler use run.handler((req) => [req.body]), which picks what the task needs';

function isOfHttp(value: unknown): boolean {
  return value instanceof IncomingMessage || value instanceof ServerResponse;
}

function packArguments(name: string, args: unknown[]): Parcel {
  try {
    return wrap(args);
  } catch (whole) {
    for (const [at, arg] of args.entries()) {
      try {
        wrap(arg);
      } catch (cause) {
        throw notSerializable(`Argument ${at + 1}`, name, isOfHttp(arg) ? NOT_A_HANDLER : cause);
      }
    }
    throw notSerializable('An argument', name, whole);
  }
}
