import { createHistogram, type RecordableHistogram } from 'node:perf_hooks';
import type { Admission, AdmissionStats } from './admission';
import type { Call, Ending } from './call';

/** Milliseconds over all calls since the pool's start; `NaN` before the first. */
export interface Percentiles {
  readonly p50: number;
  readonly p90: number;
  readonly p99: number;
  readonly max: number;
}

export interface PoolStats {
  /** Live worker processes, starting ones included and spare ones not. */
  readonly workers: number;
  /** Live worker processes beyond these, kept to take the place of a killed one. */
  readonly spare: number;
  /** Of these, how many run a call, or are being taken back from one. */
  readonly busy: number;
  /** Calls that wait for a worker. */
  readonly queued: number;
  /** Calls that returned, since the pool's start. */
  readonly completed: number;
  /** Calls that threw. */
  readonly failed: number;
  /** Calls whose own time, or whose request's time, ran out. */
  readonly timedOut: number;
  /** Calls whose client left or whose signal aborted. */
  readonly cancelled: number;
  /** Calls that found no room to wait or a closed pool, or were refused for their `size`. */
  readonly refused: number;
  /** Calls whose worker died. */
  readonly died: number;
  /** How long calls waited for a worker. */
  readonly wait: Percentiles;
  /** How long calls ran. */
  readonly run: Percentiles;
  /** Of each function with a `size` that was called: what was learnt, and what was refused by it. */
  readonly functions: readonly AdmissionStats[];
}

/** Counts calls by how they ended, and how long they waited and ran. */
export class CallStats {
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
  readonly #admissions = new Map<number, Admission>();

  add(ending: Ending, { task, madeAt, startedAt, endedAt }: Call): void {
    this.#counts[ending]++;
    if (task.admission !== undefined) this.#admissions.set(task.id, task.admission);
    if (startedAt === undefined || endedAt === undefined) return;
    record(this.#wait, startedAt - madeAt);
    record(this.#run, endedAt - startedAt);
  }

  /** `undefined` before the first call has run. */
  get meanRunMs(): number | undefined {
    return this.#run.count > 0 ? this.#run.mean / 1000 : undefined;
  }

  report() {
    const functions = [...this.#admissions.values()].map((admission) => admission.stats());
    return { ...this.#counts, wait: percentiles(this.#wait), run: percentiles(this.#run), functions };
  }
}

/** Node's histograms hold whole numbers from 1: microseconds. */
function record(histogram: RecordableHistogram, ms: number): void {
  histogram.record(Math.max(1, Math.round(ms * 1000)));
}

function percentiles(histogram: RecordableHistogram): Percentiles {
  const at = (percent: number) => (histogram.count > 0 ? histogram.percentile(percent) / 1000 : Number.NaN);
  return { p50: at(50), p90: at(90), p99: at(99), max: at(100) };
}
