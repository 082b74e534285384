/** What was done to which worker process, so that its consequences can be told from defects. */
export class Faults {
  counts = {};
  #killed = new Map();
  #stopped = new Map();

  count(kind) {
    this.counts[kind] = (this.counts[kind] ?? 0) + 1;
  }

  /** @param pid whose calls may die from now on */
  add(signal, target, pid) {
    this.count(`${signal} ${target}`);
    const victims = signal === 'SIGSTOP' ? this.#stopped : this.#killed;
    victims.delete(pid);
    victims.set(pid, Date.now());
    if (victims.size > 500) victims.delete(victims.keys().next().value);
  }

  /** A worker that this call ran in, or could have been handed to, was killed. */
  killed(calls, seen) {
    return calls.some(({ pid }) => (pid === undefined ? any(this.#killed, seen) : this.#killed.has(pid)));
  }

  stopped(calls) {
    return calls.some(({ pid }) => (pid === undefined ? this.#stopped.size > 0 : this.#stopped.has(pid)));
  }
}

function any(victims, { sentAt, endedAt }) {
  return [...victims.values()].some((at) => at >= sentAt - 1000 && at <= endedAt + 1000);
}
