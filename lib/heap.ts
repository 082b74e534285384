/** Its `place` in the heap lets it be deleted from anywhere; -1 outside. */
export interface HeapItem {
  place: number;
}

/** A binary heap: adding and deleting take O(log n) steps, and adding in order takes one. */
export class Heap<T extends HeapItem> {
  readonly #heap: T[] = [];
  readonly #before: (a: T, b: T) => boolean;

  constructor(before: (a: T, b: T) => boolean) {
    this.#before = before;
  }

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
      if (!this.#before(item, parent)) break;
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
      const child = right !== undefined && this.#before(right, left) ? right : left;
      if (!this.#before(child, item)) break;
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
