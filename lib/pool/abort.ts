type Listener = (reason: unknown) => void;

interface Listeners {
  readonly all: Set<Listener>;
  readonly onAbort: () => void;
}

const listening = new WeakMap<AbortSignal, Listeners>();

/**
 * One event listener for each signal, however many calls it can end: thousands of calls may share a signal, and an
 * `AbortSignal` walks through all its listeners for each one added or removed. It is taken off with the last call,
 * since Node keeps the signals of `AbortSignal.any()` and `AbortSignal.timeout()` alive while they have one.
 *
 * @returns takes the listener off
 */
export function onAbort(signal: AbortSignal, listener: Listener): () => void {
  const listeners = listening.get(signal) ?? listenTo(signal);
  listeners.all.add(listener);
  return () => {
    listeners.all.delete(listener);
    if (listeners.all.size > 0 || listening.get(signal) !== listeners) return;
    listening.delete(signal);
    signal.removeEventListener('abort', listeners.onAbort);
  };
}

function listenTo(signal: AbortSignal): Listeners {
  const all = new Set<Listener>();
  const onAbort = () => {
    listening.delete(signal);
    for (const listener of all) listener(signal.reason);
  };
  const listeners = { all, onAbort };
  listening.set(signal, listeners);
  signal.addEventListener('abort', onAbort, { once: true });
  return listeners;
}
