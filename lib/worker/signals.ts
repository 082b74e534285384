/** What process managers and terminals end an app with. They send it to all of its processes. */
const SIGNALS = new Set<string | symbol>(['SIGTERM', 'SIGINT', 'SIGHUP', 'SIGQUIT']);

const { emit, listenerCount } = process;
let hidden = false;
let kept = false;

/**
 * Signals belong to the parent, which lets its calls finish and then ends its workers: here they do nothing, whoever
 * listens to them. A module of tasks that is also part of the app would end its worker in the middle of a call.
 *
 * Node binds `process.emit` when the first listener of a signal comes, and asks `process.listenerCount()` before it
 * gives a signal back to the system.
 */
export function leaveSignalsToParent(): void {
  const swallow = (event: string | symbol, ...rest: unknown[]) =>
    SIGNALS.has(event) ? false : Reflect.apply(emit, process, [event, ...rest]);
  process.emit = swallow as typeof emit;
  for (const signal of SIGNALS) {
    process.removeAllListeners(signal);
    process.on(signal, () => {});
  }
  process.emit = emit;
  process.listenerCount = count;
}

/**
 * Where there are listeners to SIGINT, `vm` gives the signal back to the system around each script, and the keeper
 * would hear of none. Before the keeper is there, that is as it should be.
 */
export function hideInterruptListeners(hide: boolean): void {
  hidden = hide;
  kept ||= hide;
}

function count(event: string | symbol, listener?: (...args: never[]) => void): number {
  const real = Reflect.apply(listenerCount, process, [event, listener]);
  if (!SIGNALS.has(event) || (event === 'SIGINT' && !kept)) return real;
  return event === 'SIGINT' && hidden ? 0 : Math.max(1, real);
}
