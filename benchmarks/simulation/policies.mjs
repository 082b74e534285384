import { createRequire } from 'node:module';
import { workOf } from './simulate.mjs';

// These are no public names: the built files themselves.
const load = createRequire(import.meta.url);
const { Admission, backlog, isFeasible } = load('../../dist/pool/admission.js');
const { RunTimes } = load('../../dist/pool/run-times.js');
const { DeadlineQueue } = load('../../dist/pool/queue.js');

/** As the package's pool does it, without sizes: every call waits, those likely to fail behind all others. */
class WithoutSize {
  #queue = new DeadlineQueue();
  #tasks = new Map();

  constructor(pool) {
    this.pool = pool;
  }

  refuse() {
    return undefined;
  }

  add(call) {
    const { pool } = this;
    const { times, admission } = this.of(call);
    Object.defineProperty(call, 'isFeasible', { get: () => isFeasible(call, times, admission, pool.now) });
    this.#queue.add(call);
  }

  take() {
    return this.#queue.take();
  }

  remove(call) {
    this.#queue.delete(call);
  }

  learn(call, ms, isDone) {
    this.of(call).times.add(0, ms, isDone, this.pool.now);
  }

  /** What is kept of its task. */
  of({ task }) {
    if (!this.#tasks.has(task)) this.#tasks.set(task, this.make());
    return this.#tasks.get(task);
  }

  make() {
    return { times: new RunTimes() };
  }
}

/** As the package's pool does it where `size` is given. */
class WithSize extends WithoutSize {
  refuse(call) {
    const { now } = this.pool;
    const { times, admission } = this.of(call);
    call.expectedMs = times.predict(call.size, now).median;
    return admission.refusal(call, this.#startsIn(call), now) && call.verdict;
  }

  take(refused) {
    const { now } = this.pool;
    for (let call = super.take(); call !== undefined; call = super.take()) {
      if (this.of(call).admission.refusalAtTurn(call, this.#startsIn(call), now) === undefined) return call;
      refused(call);
    }
    return undefined;
  }

  learn(call, ms, isDone) {
    const { times, admission } = this.of(call);
    times.add(call.size, ms, isDone, this.pool.now);
    admission.count(call, isDone);
  }

  make() {
    const admission = new Admission('task', 'enforce', 1000);
    return { times: admission.times, admission };
  }

  #startsIn({ deadlineAt }) {
    const { pool } = this;
    return pool.isIdle() ? 0 : backlog(pool.calls, deadlineAt, pool.workers, pool.now);
  }
}

/** Knows how long each call will run, and drops as few as can be, the longest first (Moore and Hodgson, 1968). */
class Oracle {
  #calls = [];

  constructor(pool) {
    this.pool = pool;
  }

  refuse() {
    return undefined;
  }

  add(call) {
    this.#calls.push(call);
  }

  remove(call) {
    const place = this.#calls.indexOf(call);
    if (place >= 0) this.#calls.splice(place, 1);
  }

  take() {
    const { now } = this.pool;
    const waiting = this.#calls.map((call) => ({ call, due: dueOf(call), runs: this.#runs(call) }));
    const possible = waiting.filter(({ due, runs }) => now + runs <= due).sort((a, b) => a.due - b.due);
    const chosen = [];
    for (const each of possible) {
      chosen.push(each);
      while (!this.#fits(chosen)) chosen.splice(chosen.indexOf(longestOf(chosen)), 1);
    }
    const first = chosen[0]?.call;
    if (first !== undefined) this.remove(first);
    return first;
  }

  learn() {}

  #runs(call) {
    return workOf(call, this.pool.slowness(this.pool.now));
  }

  /** All are done in time, one after the other on whichever worker is free first. */
  #fits(chosen) {
    const { now, workers, calls } = this.pool;
    const freeAt = Array(workers).fill(now);
    let taken = 0;
    for (const { startedAt, finishesAt } of calls) if (startedAt !== undefined) freeAt[taken++] = finishesAt;
    for (const { due, runs } of chosen) {
      let soonest = 0;
      for (let n = 1; n < workers; n++) if (freeAt[n] < freeAt[soonest]) soonest = n;
      freeAt[soonest] += runs;
      if (freeAt[soonest] > due) return false;
    }
    return true;
  }
}

function dueOf({ deadlineAt, leavesAt = Number.POSITIVE_INFINITY }) {
  return Math.min(deadlineAt, leavesAt);
}

function longestOf(chosen) {
  return chosen.reduce((longest, each) => (each.runs > longest.runs ? each : longest));
}

export const withoutSize = (pool) => new WithoutSize(pool);
export const withSize = (pool) => new WithSize(pool);
export const oracle = (pool) => new Oracle(pool);
