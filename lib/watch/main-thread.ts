import { AsyncLocalStorage } from 'node:async_hooks';
import { subscribe, unsubscribe } from 'node:diagnostics_channel';
import { closeSync, openSync } from 'node:fs';
import type { IncomingMessage } from 'node:http';
import { url as inspectorUrl } from 'node:inspector';
import { devNull } from 'node:os';
import path from 'node:path';
import { PerformanceObserver, performance } from 'node:perf_hooks';
import { Worker } from 'node:worker_threads';
import { background } from '../background';
import { CELLS, clockOffset, type Questions, type WatchData } from './cells';
import type { Layer } from './route';

/** What the main thread was doing at one moment of a block. */
export interface Sample {
  /** The part of the block that it stands for, in milliseconds. */
  readonly weight: number;
  /** It was answered late: native code had to return first, and its caller may have, too. */
  readonly late: boolean;
  /** From the function that was running outwards. */
  readonly sites: readonly NodeJS.CallSite[];
  readonly request: RoutedRequest | undefined;
  /** The request's at that moment; they change as it goes from router to router. */
  readonly route: RoutedRequest['route'];
  readonly baseUrl: string | undefined;
  /** Its response had been sent. */
  readonly answered: boolean;
}

/** What Express adds to a request. */
export type RoutedRequest = IncomingMessage & {
  originalUrl?: string;
  baseUrl?: string;
  route?: { path: unknown } | undefined;
  res?: { writableFinished: boolean };
  app?: { router?: { stack?: Layer[] }; _router?: { stack?: Layer[] } };
};

export interface Block {
  readonly ms: number;
  /** CPU time of the main thread; of the whole process where Node has no `process.threadCpuUsage()`. */
  readonly cpuMs: number;
  /** The garbage collector's part. */
  readonly gcMs: number;
  readonly samples: readonly Sample[];
}

/** Without requests for so long, an app is idle, and its event loop is looked at less often. */
const IDLE_AFTER_MS = 3000;
const IDLE_PERIOD_MS = 2000;
const LONGEST_PERIOD_MS = 250;
/** What serves nothing by then will not be an app that starts. */
const STARTED_AFTER_MS = 5000;
/** A sample is answered at once unless native code is running. */
const LATE_MS = 30;
const DEEPEST_STACK = 100;
/** A block that never ends is named by its beginning. */
const MOST_SAMPLES = 100;
/** `EX_SOFTWARE` of BSD's sysexits: an error inside the program. */
const EXIT_CODE = 70;

const processCpu = process.cpuUsage;
const { threadCpuUsage: threadCpu = processCpu } = process as { threadCpuUsage?: typeof processCpu };

function cpuMs(): number {
  const { user, system } = threadCpu.call(process);
  return (user + system) / 1000;
}

function stackOf(callee: (...args: never[]) => unknown): readonly NodeJS.CallSite[] {
  const holder: { stack?: unknown } = {};
  const { prepareStackTrace, stackTraceLimit } = Error;
  try {
    Error.prepareStackTrace = (_, sites) => sites;
    Error.stackTraceLimit = DEEPEST_STACK;
    Error.captureStackTrace(holder, callee);
    const { stack } = holder;
    // It is text if an error's stack is being prepared at this very moment.
    return Array.isArray(stack) ? stack : [];
  } finally {
    Error.prepareStackTrace = prepareStackTrace;
    Error.stackTraceLimit = stackTraceLimit;
  }
}

interface MainThreadEvents {
  /** The event loop turns again. */
  onBlock(block: Block): void;
  /** There is no watch, or none any more. */
  onError(error: Error): void;
  /** What to say of a process that is to end. */
  lastLine(block: Block): string;
}

/** The main thread's side: shows the other thread that the event loop turns, and answers while it does not. */
export class MainThread {
  readonly #events: MainThreadEvents;
  readonly #worker: Worker;
  readonly #cells = new Int32Array(new SharedArrayBuffer(4 * Object.keys(CELLS).length));
  readonly #requests = new AsyncLocalStorage<WeakRef<RoutedRequest>>();
  readonly #gcObserver = new PerformanceObserver((list) => this.#gcs.push(...list.getEntries()));
  #gcs: { startTime: number; duration: number }[] = [];
  #samples: Sample[] = [];
  #threshold = 0;
  /** 0 before the watch begins. */
  #period = 0;
  #timer: NodeJS.Timeout | undefined;
  #awakeUntil = 0;
  #beatAt = 0;
  /** Read once in a period, since reading it at every request would cost too much. */
  #read = { at: 0, active: 0, cpuMs: 0 };

  constructor(events: MainThreadEvents) {
    this.#events = events;
    const workerData: WatchData = { cells: this.#cells, clockOffset: clockOffset() };
    this.#worker = new Worker(path.join(__dirname, 'thread.js'), {
      name: 'express-unblock watch',
      workerData,
      // Modules that the app preloads must not run there.
      execArgv: [],
      env: {},
    });
    this.#worker.unref();
    this.#worker.on('error', (error: Error) => events.onError(error));
    subscribe('http.server.request.start', this.#onRequest);
    subscribe('tracing:net.server.listen:asyncEnd', this.#begin);
    process.on('exit', this.#onExit);
    this.#timer = setTimeout(this.#begin, STARTED_AFTER_MS).unref();
  }

  set(threshold: number, exitAfter: number): void {
    this.#threshold = threshold;
    Atomics.store(this.#cells, CELLS.threshold, threshold);
    Atomics.store(this.#cells, CELLS.exitAfter, exitAfter);
    if (this.#period > 0) this.#wake(performance.now());
  }

  stop(): void {
    unsubscribe('http.server.request.start', this.#onRequest);
    unsubscribe('tracing:net.server.listen:asyncEnd', this.#begin);
    process.off('exit', this.#onExit);
    clearTimeout(this.#timer);
    this.#gcObserver.disconnect();
    this.#requests.disable();
    void this.#worker.terminate();
  }

  /** Blocks before this are the app's start. */
  #begin = (): void => {
    if (this.#period > 0) return;
    this.#gcObserver.observe({ entryTypes: ['gc'] });
    this.#wake(performance.now());
  };

  #wake(now: number): void {
    this.#awakeUntil = now + IDLE_AFTER_MS;
    const period = Math.min(Math.ceil(this.#threshold / 4), LONGEST_PERIOD_MS);
    if (this.#period !== period) this.#beatEvery(period, now);
  }

  #beatEvery(period: number, now: number): void {
    this.#period = period;
    clearTimeout(this.#timer);
    this.#timer = background.runInAsyncScope(setInterval, undefined, this.#onTimer, period).unref();
    this.#beat(now);
    Atomics.store(this.#cells, CELLS.period, period);
    Atomics.notify(this.#cells, CELLS.period);
  }

  #onRequest = (message: unknown): void => {
    this.#requests.enterWith(new WeakRef((message as { request: RoutedRequest }).request));
    this.#begin();
    const now = performance.now();
    this.#beat(now);
    this.#wake(now);
  };

  #onTimer = (): void => {
    const now = performance.now();
    this.#beat(now);
    if (now > this.#awakeUntil && this.#period < IDLE_PERIOD_MS) this.#beatEvery(IDLE_PERIOD_MS, now);
  };

  /** The event loop turns. Costs a request next to nothing, unless the last reading is a period old. */
  #beat(now: number): void {
    const gap = now - this.#beatAt;
    this.#beatAt = now;
    Atomics.store(this.#cells, CELLS.beat, now | 0);
    if (now - this.#read.at < this.#period && this.#samples.length === 0) return;

    const before = this.#read;
    this.#read = { at: now, active: performance.eventLoopUtilization().active, cpuMs: cpuMs() };
    const samples = this.#samples;
    this.#samples = [];
    // Waiting for events is no block, even if a busy machine wakes this thread up late.
    const ms = Math.min(gap, this.#read.active - before.active);
    if (samples.length === 0 || ms < this.#threshold) {
      this.#gcs = this.#gcs.filter(({ startTime }) => startTime > before.at);
      return;
    }
    this.#wake(now);
    const used = this.#read.cpuMs - before.cpuMs;
    const report = () => this.#events.onBlock({ ms, cpuMs: used, gcMs: this.#gcMsBetween(now - gap, now), samples });
    // Node reports garbage collections by immediates of its own, which come first.
    background.runInAsyncScope(setImmediate, undefined, setImmediate, report);
  }

  #gcMsBetween(from: number, to: number): number {
    return this.#gcs.reduce((sum, { startTime, duration }) => {
      return sum + Math.max(0, Math.min(to, startTime + duration) - Math.max(from, startTime));
    }, 0);
  }

  readonly questions: Questions = {
    sample: (pause, askedAt) => {
      this.#sample(pause, askedAt, this.questions.sample);
      return { cpuMs: cpuMs(), debuggable: inspectorUrl() !== undefined };
    },

    lastLine: (blockedMs) => {
      this.#sample(blockedMs, performance.now(), this.questions.lastLine);
      return this.#events.lastLine({ ms: blockedMs, cpuMs: blockedMs, gcMs: 0, samples: this.#samples });
    },

    exit: () => {
      // The last line has been said: Node's own, that it waits for the session by which it was asked, is not to follow.
      closeSync(2);
      openSync(devNull, 'w');
      (process as unknown as { reallyExit(code: number): void }).reallyExit(EXIT_CODE);
    },
  };

  /** Runs on top of whatever blocks, Node's own code included: it must not change what it finds. */
  #sample(pause: number, askedAt: number, question: (...args: never[]) => unknown): void {
    if (this.#samples.length >= MOST_SAMPLES) return;
    const waited = performance.now() - askedAt;
    const request = this.#requests.getStore()?.deref();
    this.#samples.push({
      weight: pause + waited,
      late: waited > LATE_MS,
      sites: stackOf(question),
      request,
      route: request?.route,
      baseUrl: request?.baseUrl,
      answered: request?.res?.writableFinished === true,
    });
  }

  #onExit = (): void => {
    Atomics.store(this.#cells, CELLS.ending, 1);
    // Node waits at the end for sessions that are open, and says so on stderr. This one is closed in a moment.
    for (let waits = 0; Atomics.load(this.#cells, CELLS.session) === 1 && waits < 20; waits++) {
      Atomics.wait(this.#cells, CELLS.session, 1, 10);
    }
  };
}
