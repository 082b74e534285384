import { subscribe, tracingChannel } from 'node:diagnostics_channel';
import { setTimeout as wait } from 'node:timers/promises';
import { SPARE, WORKERS } from './plan.mjs';

/** An interrupt that is not over by then becomes a kill; timers may be late. */
const INTERRUPT_MS = 200;
const UP_MS = 1500;
const ENDINGS = ['completed', 'failed', 'timedOut', 'cancelled', 'refused', 'died'];

/** What the app saw of its requests, its offloaded calls and its worker processes, by public means only. */
export class Ledger {
  /** Breaches that belong to no single call. */
  problems = [];
  lastPids = [];
  /** How workers were taken back from calls that were given up. */
  takenBack = { interrupted: 0, killedInstead: 0, killed: 0 };
  #pool;
  #requests = new Map();
  #running = new Set();
  #children = new Set();
  #counted = Object.fromEntries(ENDINGS.map((ending) => [ending, 0]));

  constructor(pool, requests) {
    this.#pool = pool;
    const { start, asyncEnd } = tracingChannel('express-unblock:offload');
    start.subscribe((message) => {
      message.owner = requests.getStore();
      message.owner?.calls.push(message);
      this.#running.add(message);
      message.beside = this.#running.size - 1;
    });
    asyncEnd.subscribe((message) => {
      if (!this.#running.delete(message)) this.problems.push(`a call of ${message.task} settled twice`);
      this.#counted[message.outcome]++;
    });
    subscribe('child_process', ({ process: child }) => this.#onFork(child));
  }

  open(id) {
    const record = this.#requests.get(id) ?? { requests: 0, ran: 0, calls: [] };
    record.requests++;
    this.#requests.set(id, record);
    return record;
  }

  close(id) {
    const { requests, ran, calls } = this.#requests.get(id) ?? { requests: 0, ran: 0, calls: [] };
    this.#requests.delete(id);
    return {
      requests,
      ran,
      calls: calls.map(({ task, outcome, pid, queuedMs, runMs, beside, error }) => ({
        ...{ task, outcome, pid, queuedMs, runMs, beside },
        error: error === undefined ? undefined : String(error?.stack ?? error).slice(0, 300),
      })),
    };
  }

  #onFork(child) {
    child.forkedAt = Date.now();
    this.#children.add(child);
    // It is told of just before it has a process id.
    child.once('spawn', () => {
      this.lastPids = [...this.lastPids.slice(-99), child.pid];
    });
    child.once('exit', () => this.#children.delete(child));
    this.#countKills(child);
    const { size } = this.#children;
    if (size > WORKERS + SPARE) this.problems.push(`${size} live workers, ${WORKERS} and ${SPARE} spare allowed`);
  }

  /** What the pool does to a worker, which it may kill more than once. */
  #countKills(child) {
    const { kill } = child;
    let interruptedAt = Number.NEGATIVE_INFINITY;
    let killed = false;
    child.kill = (signal) => {
      const isFirst = !killed;
      killed ||= signal === 'SIGKILL';
      if (signal === 'SIGINT') {
        interruptedAt = Date.now();
        this.takenBack.interrupted++;
      } else if (isFirst) this.#countKill(Date.now() - interruptedAt < INTERRUPT_MS);
      return kill.call(child, signal);
    };
  }

  #countKill(isInstead) {
    if (isInstead) this.takenBack.interrupted--;
    this.takenBack[isInstead ? 'killedInstead' : 'killed']++;
  }

  /** @returns the process id of the worker that it hit, if there was one to hit */
  inflict({ signal, target, pick }) {
    if (target === 'all') return this.#signalAll(signal);
    const busy = new Set([...this.#running].map(({ pid }) => pid));
    const choice = [...this.#children].filter(({ pid }) => busy.has(pid) === (target === 'busy'));
    const victim = choice[Math.floor(pick * choice.length)];
    if (victim !== undefined) process.kill(victim.pid, signal);
    return victim?.pid;
  }

  /** As a process manager does; a SIGINT finds a worker whose keeper is not up yet for some 50 ms. */
  #signalAll(signal) {
    for (const { pid, forkedAt } of this.#children) {
      if (pid !== undefined && Date.now() - forkedAt > UP_MS) process.kill(pid, signal);
    }
    return 0;
  }

  inflictNext({ pid, signal }) {
    return [...this.#children].some((child) => child.pid === pid) && process.kill(pid, signal);
  }

  /** Until no worker has anything left to do, which must not take long once nobody asks. */
  async quiet() {
    for (const end = Date.now() + 5000; Date.now() < end; await wait(20)) {
      const { busy, queued } = this.#pool.stats();
      if (busy + queued + this.#running.size === 0) return;
    }
    this.problems.push(`not quiet in 5 s: ${JSON.stringify(this.#pool.stats())}, ${this.#running.size} unsettled`);
  }

  /** The breaches since it was last asked. */
  balance() {
    const stats = this.#pool.stats();
    for (const ending of ENDINGS) {
      if (stats[ending] === this.#counted[ending]) continue;
      this.problems.push(`stats().${ending} is ${stats[ending]}, seen were ${this.#counted[ending]}`);
    }
    const alive = stats.workers + stats.spare;
    if (alive !== this.#children.size)
      this.problems.push(`stats() tell of ${alive} workers, ${this.#children.size} live`);
    if (this.#requests.size > 0) this.problems.push(`requests nobody sent: ${[...this.#requests.keys()].slice(0, 5)}`);
    return { stats, problems: this.problems.splice(0) };
  }
}
