/**
 * What the two threads share: one Int32Array, written and read with `Atomics`. Moments are milliseconds on the main
 * thread's `performance.now()`, of which only the low 32 bits are kept: differences stay right when they overflow.
 */
export const CELLS = {
  /** When the event loop last turned. */
  beat: 0,
  /** Milliseconds until it turns again at the latest, unless it is blocked; 0 before the watch begins. */
  period: 1,
  threshold: 2,
  /** 0: never. */
  exitAfter: 3,
  /** 1 while the watching thread has an inspector session open. */
  session: 4,
  /** 1 once the process is ending. */
  ending: 5,
} as const;

export interface WatchData {
  readonly cells: Int32Array;
  readonly clockOffset: number;
}

/** `performance.now()` less the machine's monotonic clock. It differs between threads, the monotonic clock does not. */
export function clockOffset(): number {
  const [seconds, nanoseconds] = process.hrtime();
  return performance.now() - (seconds * 1000 + nanoseconds / 1e6);
}

/** The symbol under which `globalThis` has the process's one watch, for the inspector and for other copies of this file. */
export const PLACE = 'express-unblock.watch';

/** What the watching thread has the main thread evaluate. */
export interface Questions {
  /** Keeps the stack until the block is over. */
  sample(pause: number, askedAt: number): SampleAnswer;
  /** What to say of a process that is to end. */
  lastLine(blockedMs: number): string;
  /** Ends the process. */
  exit(): void;
}

export interface SampleAnswer {
  readonly cpuMs: number;
  /** A debugger may be connected to this process. */
  readonly debuggable: boolean;
}
