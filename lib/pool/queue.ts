/** What waits has a deadline, and remembers where in the heap it is, so that it can leave from anywhere. */
export interface Waiting {
  readonly deadlineAt: number;
  /** In the order of their making. */
  readonly id: number;
  /** Enough time is left to do it, as far as anybody knows. */
  readonly isFeasible: boolean;
  place: number;
}

/**
 * Earliest deadline first, first in first out among equals. Where more is asked for than can be done, that order alone
 * would always begin what is about to be given up: what is not feasible when its turn comes lets all others go first.
 */
export class DeadlineQueue<T extends Waiting> {
  readonly #feasible = new Heap<T>();
  readonly #tight = new Heap<T>();

  get size(): number {
    return this.#feasible.size + this.#tight.size;
  }

  add(item: T): void {
    this.#feasible.add(item);
  }

  take(): T | undefined {
    this.#sort();
    return this.#feasible.take() ?? this.#tight.take();
  }

  delete(item: T): boolean {
    return this.#feasible.delete(item) || this.#tight.delete(item);
  }

  #sort(): void {
    // A deadline may have been moved, or what takes long be a while ago.
    while (this.#tight.first?.isFeasible) this.#feasible.add(this.#tight.take() as T);
    while (this.#feasible.first?.isFeasible === false) this.#tight.add(this.#feasible.take() as T);
  }
}

/** A binary heap. In, out and away each take O(log n) steps, and one that left holds on to nothing. */
class Heap<T extends Waiting> {
  readonly #heap: T[] = [];

  get size(): number {
    return this.#heap.length;
  }

  get first(): T | undefined {
    return this.#heap[0];
  }

  add(item: T): void {
    this.#heap.push(item);
    this.#up(item, this.#heap.length - 1);
  }

  take(): T | undefined {
    const { first } = this;
    if (first !== undefined) this.delete(first);
    return first;
  }

  delete(item: T): boolean {
    const { place } = item;
    if (this.#heap[place] !== item) return false;
    const last = this.#heap.pop() as T;
    item.place = -1;
    if (last === item) return true;
    this.#up(last, place);
    this.#down(last, last.place);
    return true;
  }

  #up(item: T, from: number): void {
    let place = from;
    while (place > 0) {
      const above = (place - 1) >> 1;
      const parent = this.#heap[above] as T;
      if (!before(item, parent)) break;
      this.#put(parent, place);
      place = above;
    }
    this.#put(item, place);
  }

  #down(item: T, from: number): void {
    let place = from;
    for (;;) {
      const left = this.#heap[2 * place + 1];
      const right = this.#heap[2 * place + 2];
      if (left === undefined) break;
      const child = right !== undefined && before(right, left) ? right : left;
      if (!before(child, item)) break;
      const { place: below } = child;
      this.#put(child, place);
      place = below;
    }
    this.#put(item, place);
  }

  #put(item: T, place: number): void {
    this.#heap[place] = item;
    item.place = place;
  }
}

function before(a: Waiting, b: Waiting): boolean {
  return a.deadlineAt === b.deadlineAt ? a.id < b.id : a.deadlineAt < b.deadlineAt;
}
