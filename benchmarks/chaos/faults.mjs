/** A call that no worker has begun is safe to run elsewhere: one death is no reason for it to fail. */
const DEATHS_TO_FAIL_UNBEGUN = 2;

/** What was done to which worker process, so that its consequences can be told from defects. */
export class Faults {
  counts = {};
  #killed = new Map();

  count(kind) {
    this.counts[kind] = (this.counts[kind] ?? 0) + 1;
  }

  /** @param pid whose calls may die from now on, if the signal kills */
  add(signal, target, pid) {
    this.count(`${signal} ${target}`);
    if (target === 'all' || signal === 'SIGSTOP' || signal === 'SIGCONT') return;
    this.#killed.delete(pid);
    this.#killed.set(pid, Date.now());
    if (this.#killed.size > 500) this.#killed.delete(this.#killed.keys().next().value);
  }

  /** Whether faults explain that the worker of one of these calls died. */
  explainDeath(calls, { sentAt, endedAt }) {
    const deaths = [...this.#killed.values()].filter((at) => at >= sentAt - 1500 && at <= endedAt + 100).length;
    return calls.some(({ pid }) => (pid === undefined ? deaths >= DEATHS_TO_FAIL_UNBEGUN : this.#killed.has(pid)));
  }
}
