type Listener = (reason: unknown) => void;

const listeners = new WeakMap<AbortSignal, Set<Listener>>();

/**
 * One event listener for each signal, however many calls it can end: thousands of calls may share a signal, and an
 * `AbortSignal` walks through all its listeners for each one added or removed.
 *
 * @returns takes the listener off
 */
export function onAbort(signal: AbortSignal, listener: Listener): () => void {
  const all = listeners.get(signal) ?? listenTo(signal);
  all.add(listener);
  return () => all.delete(listener);
}

function listenTo(signal: AbortSignal): Set<Listener> {
  const all = new Set<Listener>();
  listeners.set(signal, all);
  const tell = () => {
    listeners.delete(signal);
    for (const listener of all) listener(signal.reason);
  };
  signal.addEventListener('abort', tell, { once: true });
  return all;
}
