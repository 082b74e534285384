/** Process managers and terminals end an app with one of these, and send it to all processes of the app. */
const SIGNALS = new Set<NodeJS.Signals>(['SIGTERM', 'SIGINT', 'SIGHUP', 'SIGQUIT']);

const { emit, listenerCount } = process;
let hidden = false;

/**
 * Signals belong to the parent, which lets its calls finish and then ends its workers. In a worker they do nothing,
 * even if a module listens to them: a module that is part of the app as well would end the worker in the middle of a call.
 */
export function leaveSignalsToParent(): void {
  for (const signal of SIGNALS) {
    process.removeAllListeners(signal);
    listen(signal, [() => {}]);
  }
  process.listenerCount = count;
}

/** After the last script that SIGINT may end, `vm` leaves the signal to the system, which would end the process. */
export function takeInterruptsAgain(): void {
  const listeners = process.rawListeners('SIGINT') as (() => void)[];
  process.listenerCount = listenerCount;
  process.removeAllListeners('SIGINT');
  listen('SIGINT', listeners);
  process.listenerCount = count;
}

/** Node binds `process.emit` when the first listener of a signal is added: from then on, no listener is called. */
function listen(signal: NodeJS.Signals, listeners: (() => void)[]): void {
  const swallow = (event: string | symbol, ...rest: unknown[]) =>
    SIGNALS.has(event as NodeJS.Signals) ? false : Reflect.apply(emit, process, [event, ...rest]);
  const { emit: current } = process;
  process.emit = swallow as typeof emit;
  for (const listener of listeners) process.on(signal, listener);
  process.emit = current;
}

/** If `vm` sees listeners of SIGINT, it removes them before such a script and adds them again after it. */
export function hideInterruptListeners(hide: boolean): void {
  hidden = hide;
}

/** Node calls it when a listener is removed, and gives the signal back to the system at 0. */
function count(event: string | symbol, listener?: (...args: never[]) => void): number {
  const real = Reflect.apply(listenerCount, process, [event, listener]);
  if (!SIGNALS.has(event as NodeJS.Signals)) return real;
  return event === 'SIGINT' && hidden ? 0 : Math.max(1, real);
}
