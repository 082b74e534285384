/**
 * A pool under a simulated clock: thousands of seconds in one. The queue, the model and the decisions are the package's
 * own; the workers, the clients and the clock are simulated. Times are milliseconds.
 */

/** A round trip to a worker, and taking a worker back from a call that was given up. */
const DISPATCH_MS = 0.4;
const RECLAIM_MS = 1.6;

/** What a run takes of a worker, its way there and back included. */
export function workOf({ ms }, slowness = 1) {
  return DISPATCH_MS + ms * slowness;
}

/**
 * @param arrivals requests in the order of their arrival: `{ at, task, size, ms, limit, leavesAt }`
 * @param makePolicy `(pool) => policy`, which refuses, orders and learns
 * @param slowness `(now) => factor` on all run times
 * @returns the calls, each with its `ending` ('completed', 'timedOut', 'left' or the reason it was refused for)
 */
export function simulate({ arrivals, workers = 1, makePolicy, slowness = () => 1 }) {
  const events = new Events();
  const pool = { now: 0, workers, calls: new Set(), slowness, isIdle: () => free.length > 0 };
  const free = Array.from({ length: workers }, (_, n) => n);
  const policy = makePolicy(pool);
  const calls = arrivals.map((request, id) => ({ ...request, id, place: -1, verdict: undefined, ending: undefined }));
  for (const call of calls) events.add(call.at, () => arrive(call));
  while (events.size > 0) {
    const { at, run } = events.take();
    pool.now = at;
    run();
  }
  return calls;

  function arrive(call) {
    call.madeAt = pool.now;
    call.deadlineAt = pool.now + call.limit;
    call.endsAt = call.deadlineAt;
    const reason = policy.refuse(call);
    if (reason !== undefined) {
      end(call, reason);
      return;
    }
    policy.add(call);
    pool.calls.add(call);
    events.add(call.deadlineAt, () => end(call, 'timedOut'));
    if (call.leavesAt < call.deadlineAt) events.add(call.leavesAt, () => end(call, 'left'));
    dispatch();
  }

  function dispatch() {
    while (free.length > 0) {
      const call = policy.take((refused) => end(refused, 'wait'));
      if (call === undefined) return;
      if (call.deadlineAt <= pool.now) continue; // Its timer is about to fire.
      call.worker = free.pop();
      call.startedAt = pool.now;
      call.finishesAt = pool.now + workOf(call, slowness(pool.now));
      events.add(call.finishesAt, () => end(call, 'completed'));
    }
  }

  function end(call, ending) {
    if (call.ending !== undefined) return;
    call.ending = ending;
    call.endedAt = pool.now;
    pool.calls.delete(call);
    if (call.startedAt === undefined) {
      policy.remove(call);
      return;
    }
    policy.learn(call, pool.now - call.startedAt, ending === 'completed');
    events.add(pool.now + (ending === 'completed' ? 0 : RECLAIM_MS), () => {
      free.push(call.worker);
      dispatch();
    });
  }
}

/** What is to happen, the earliest first, and in the order it was added where the time is the same: a binary heap. */
class Events {
  #heap = [];
  #added = 0;

  get size() {
    return this.#heap.length;
  }

  add(at, run) {
    const heap = this.#heap;
    const event = { at, run, order: this.#added++ };
    let place = heap.length;
    for (; place > 0; place = (place - 1) >> 1) {
      const parent = heap[(place - 1) >> 1];
      if (isBefore(parent, event)) break;
      heap[place] = parent;
    }
    heap[place] = event;
  }

  take() {
    const heap = this.#heap;
    const first = heap[0];
    const moved = heap.pop();
    if (heap.length === 0) return first;
    let place = 0;
    for (;;) {
      let child = 2 * place + 1;
      if (child >= heap.length) break;
      if (child + 1 < heap.length && isBefore(heap[child + 1], heap[child])) child++;
      if (isBefore(moved, heap[child])) break;
      heap[place] = heap[child];
      place = child;
    }
    heap[place] = moved;
    return first;
  }
}

function isBefore(a, b) {
  return a.at < b.at || (a.at === b.at && a.order < b.order);
}
