import { Heap, type HeapItem } from '../heap';

/** What waits has a deadline, and remembers where in the heap it is, so that it can leave from anywhere. */
export interface Waiting extends HeapItem {
  readonly deadlineAt: number;
  /** In the order of their making. */
  readonly id: number;
  /** Enough time is left to do it, as far as anybody knows. */
  readonly isFeasible: boolean;
}

/**
 * Earliest deadline first, first in first out among equals. Under overload, that order alone would always begin calls
 * that are about to be given up: a call that is not feasible at its turn lets all others go first.
 */
export class DeadlineQueue<T extends Waiting> {
  readonly #feasible = new Heap<T>(before);
  readonly #infeasible = new Heap<T>(before);

  get size(): number {
    return this.#feasible.size + this.#infeasible.size;
  }

  add(item: T): void {
    this.#feasible.add(item);
  }

  take(): T | undefined {
    this.#sort();
    return this.#feasible.take() ?? this.#infeasible.take();
  }

  delete(item: T): boolean {
    return this.#feasible.delete(item) || this.#infeasible.delete(item);
  }

  #sort(): void {
    // It may have become feasible: its deadline was moved, or the long runs are a while ago.
    while (this.#infeasible.first?.isFeasible) this.#feasible.add(this.#infeasible.take() as T);
    while (this.#feasible.first?.isFeasible === false) this.#infeasible.add(this.#feasible.take() as T);
  }
}

function before(a: Waiting, b: Waiting): boolean {
  return a.deadlineAt === b.deadlineAt ? a.id < b.id : a.deadlineAt < b.deadlineAt;
}
