import { subscribe, tracingChannel } from 'node:diagnostics_channel';
import { setTimeout as wait } from 'node:timers/promises';
import { WORKERS } from './plan.mjs';

const ENDINGS = ['completed', 'failed', 'timedOut', 'cancelled', 'refused', 'died'];

/** What the app saw of its requests, its offloaded calls and its worker processes, by public means only. */
export class Ledger {
  /** Breaches that belong to no single call. */
  problems = [];
  lastPids = [];
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
    this.#children.add(child);
    // It is told of just before it has a process id.
    child.once('spawn', () => {
      this.lastPids = [...this.lastPids.slice(-99), child.pid];
    });
    child.once('exit', () => this.#children.delete(child));
    if (this.#children.size > WORKERS) this.problems.push(`${this.#children.size} live workers, ${WORKERS} allowed`);
  }

  /** @returns the process id of the worker that it hit, if there was one to hit */
  inflict({ signal, target, pick }) {
    const busy = new Set([...this.#running].map(({ pid }) => pid));
    const choice = [...this.#children].filter(({ pid }) => busy.has(pid) === (target === 'busy'));
    const victim = choice[Math.floor(pick * choice.length)];
    victim?.kill(signal);
    return victim?.pid;
  }

  inflictNext({ pid, signal }) {
    return [...this.#children].find((child) => child.pid === pid)?.kill(signal);
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
    const starting = stats.workers - this.#children.size;
    if (starting !== 0) this.problems.push(`stats().workers is ${stats.workers}, ${this.#children.size} live`);
    if (this.#requests.size > 0) this.problems.push(`requests nobody sent: ${[...this.#requests.keys()].slice(0, 5)}`);
    return { stats, problems: this.problems.splice(0) };
  }
}
