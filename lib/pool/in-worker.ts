import { AsyncResource } from 'node:async_hooks';
import { tracingChannel } from 'node:diagnostics_channel';
import { IncomingMessage, ServerResponse } from 'node:http';
import { notSerializable } from '../errors';
import type { Settings, Start } from '../offload';
import { invalid } from '../options';
import { Recent } from '../recent';
import { deadlineOfCall } from '../request/context';
import { type Parcel, type TaskDefinition, wrap } from '../wire';
import { harmless } from '../worker/in-place';
import { Admission } from './admission';
import type { Call, CallLimits, Task } from './call';
import { type Caller, lineOf } from './caller';
import { sharedPool, type TaskPool } from './pools';
import { RunTimes } from './run-times';
import { sourceOf } from './source';

/** The same text from the same place is the same task, however often it is offloaded. */
const taskIds = new Recent<number>();
let lastId = 0;

function idOf(definition: TaskDefinition): number {
  return taskIds.get(JSON.stringify(definition), () => ++lastId);
}

export function functionInWorker(fn: (...args: never[]) => unknown, caller: Caller, settings: Settings): Start {
  const { file } = caller;
  const source = sourceOf(fn, caller);
  const name = fn.name || 'anonymous';
  const { pool = sharedPool() } = settings;
  pool.accept({ kind: 'function', name });
  return inWorker({ kind: 'function', name, file, line: lineOf(source.source, file), ...source }, pool, settings);
}

/** @returns a function that gives the `Start` of an export */
export function moduleInWorker(url: string, settings: Settings): (name: string) => Start {
  const { pool = sharedPool() } = settings;
  pool.accept({ kind: 'module', url });
  return (name) => inWorker({ kind: 'module', name, url }, pool, settings);
}

function inWorker(definition: TaskDefinition, pool: TaskPool, settings: Settings): Start {
  const { name } = definition;
  const { reclaim, size: sizeOf, admission: mode } = settings;
  const admission = sizeOf && mode !== 'off' ? new Admission(name, mode, settings.timeout) : undefined;
  const times = admission?.times ?? new RunTimes();
  const task: Task = { id: idOf(definition), definition, reclaim, times, admission };

  async function start(...[args, { signal, timeout, onProgress, detached }]: Parameters<Start>) {
    const deadline = detached ? undefined : deadlineOfCall();
    const signals = [signal, deadline?.signal].filter((one) => one !== undefined);
    for (const one of signals) one.throwIfAborted();
    const size = admission && measure(name, sizeOf, args);
    const packed = packArguments(name, args);
    const limits = {
      timeout: timeout ?? settings.timeout,
      request: deadline,
      signals,
      onProgress: onProgress === undefined ? undefined : AsyncResource.bind(harmless(onProgress)),
      size,
    };
    return submitTraced(pool, task, packed, limits);
  }
  const manages = (limit: number) => admission?.times.manages(limit, performance.now());
  return Object.assign(start, { manages });
}

function measure(name: string, sizeOf: Settings['size'], args: unknown[]): number {
  const size: unknown = sizeOf?.(...args);
  if (typeof size === 'number' && size >= 0 && size < Number.POSITIVE_INFINITY) return size;
  Promise.resolve(size).catch(() => {}); // An async `size` that rejects must not end the process.
  throw invalid(name, 'what size returns', 'a number of 0 or more', size);
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

const tracing = tracingChannel('express-unblock:offload');

function isTraced(): boolean {
  const { start, end, asyncStart, asyncEnd, error } = tracing;
  return [start, end, asyncStart, asyncEnd, error].some(({ hasSubscribers }) => hasSubscribers);
}

/** Hands a call to the pool, and traces it if somebody listens to the channel. */
function submitTraced(pool: TaskPool, task: Task, args: Parcel, limits: CallLimits): Promise<unknown> {
  if (!isTraced()) return pool.submit(task, args, limits);
  let call: Call | undefined;
  const since = (from: number | undefined, to: number | undefined) =>
    from === undefined || to === undefined ? undefined : to - from;
  const message = {
    task: task.definition.name,
    get queuedMs() {
      return since(call?.madeAt, call?.startedAt ?? call?.endedAt);
    },
    get runMs() {
      return since(call?.startedAt, call?.endedAt);
    },
    get outcome() {
      return call?.ending;
    },
    get pid() {
      return call?.pid;
    },
    size: limits.size,
    /** The median run time of its size; `undefined` without `size`, and before the first run. */
    get predictedMs() {
      return (limits.size !== undefined && call?.expectedMs) || undefined;
    },
    /** Why it was refused, or would have been; `check` where it was refused for its size and run all the same. */
    get reason() {
      return call?.verdict;
    },
  };
  return tracing.tracePromise(
    () =>
      pool.submit(task, args, limits, (made) => {
        call = made;
      }),
    message,
  );
}
