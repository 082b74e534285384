import { AsyncResource } from 'node:async_hooks';
import { background } from '../background';
import { Heap, type HeapItem } from '../heap';

let made = 0;

let timer: NodeJS.Timeout | undefined;
let wakesAt = Number.POSITIVE_INFINITY;
/** The counterpart of the `setTimeout` that made the timer: tests may replace both by fake ones. */
let clearTimer = clearTimeout;

const UNTRACKED = { requireManualDestroy: true };

/**
 * A limit in time. One Node timer serves all of them: nearly all are cleared before they pass, and a timer for each
 * would cost more than the rest of a deadline. When the first one is cleared, the timer stays, and fires once in vain.
 *
 * `expire` runs in the async context in which the `Expiry` was made. It is a method, since a closure for each request
 * would cost time, too.
 */
export abstract class Expiry extends AsyncResource implements HeapItem {
  /** When it passes, on the clock of `performance.now()`; `Infinity` while it is not set. */
  at = Number.POSITIVE_INFINITY;
  /** The order among those that pass at the same time. */
  id = 0;
  place = -1;
  isWaiting = false;
  earlier: Expiry | undefined;
  later: Expiry | undefined;

  constructor() {
    super('Deadline', UNTRACKED);
    this.emitDestroy(); // To Jest's --detectOpenHandles, it is an open handle until then.
  }

  abstract expire(): void;

  /** `limit` milliseconds from now. Until it passes or is cleared, it holds the process as a timer does. */
  set(limit: number): void {
    const now = performance.now();
    if (this.isWaiting) waiting.delete(this);
    this.at = now + limit;
    this.id = ++made;
    waiting.add(this);
    if (this.at < wakesAt || clearTimer !== clearTimeout) wakeForFirst(now);
    else if (waiting.size === 1) timer?.ref();
  }

  clear(): void {
    this.at = Number.POSITIVE_INFINITY;
    if (!this.isWaiting) return;
    waiting.delete(this);
    if (waiting.size === 0) timer?.unref();
  }
}

function before(a: Expiry, b: Expiry): boolean {
  return a.at === b.at ? a.id < b.id : a.at < b.at;
}

/** Expiries of one limit come in the order of their times and are chained, which takes one step. Others go in a heap. */
class Waiting {
  size = 0;
  readonly #heap = new Heap<Expiry>(before);
  #head: Expiry | undefined;
  #tail: Expiry | undefined;

  get first(): Expiry | undefined {
    const { first } = this.#heap;
    return first === undefined || (this.#head !== undefined && before(this.#head, first)) ? this.#head : first;
  }

  add(expiry: Expiry): void {
    this.size++;
    expiry.isWaiting = true;
    const tail = this.#tail;
    if (tail !== undefined && expiry.at < tail.at) {
      this.#heap.add(expiry);
      return;
    }
    expiry.earlier = tail;
    if (tail === undefined) this.#head = expiry;
    else tail.later = expiry;
    this.#tail = expiry;
  }

  delete(expiry: Expiry): void {
    this.size--;
    expiry.isWaiting = false;
    if (expiry.place >= 0) {
      this.#heap.delete(expiry);
      return;
    }
    const { earlier, later } = expiry;
    if (earlier === undefined) this.#head = later;
    else earlier.later = later;
    if (later === undefined) this.#tail = earlier;
    else later.earlier = earlier;
    expiry.earlier = undefined;
    expiry.later = undefined;
  }
}

const waiting = new Waiting();

function wakeForFirst(now: number): void {
  clearTimer(timer);
  clearTimer = clearTimeout;
  wakesAt = waiting.first?.at ?? Number.POSITIVE_INFINITY;
  if (waiting.size === 0) return;
  timer = background.runInAsyncScope(setTimeout, undefined, wake, Math.max(1, Math.ceil(wakesAt - now)));
}

function wake(): void {
  const now = performance.now();
  // Node's timers count whole milliseconds, and may be a fraction early.
  for (let { first } = waiting; first !== undefined && first.at <= now; { first } = waiting) {
    waiting.delete(first);
    setImmediate(confirm, first, first.at);
  }
  wakeForFirst(now);
}

/**
 * After a block of the event loop, timers fire before the input that arrived meanwhile is read. That input may be the
 * result of the work. So the limit passes one round later, if it still stands.
 */
function confirm(expiry: Expiry, at: number): void {
  if (expiry.at === at) expiry.runInAsyncScope(expiry.expire, expiry);
}
