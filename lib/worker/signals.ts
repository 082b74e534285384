/** What process managers and terminals end an app with. They send it to all of its processes. */
const SIGNALS = new Set<NodeJS.Signals>(['SIGTERM', 'SIGINT', 'SIGHUP', 'SIGQUIT']);

const { emit, listenerCount } = process;
let hidden = false;

/**
 * Signals belong to the parent, which lets its calls finish and then ends its workers: here they do nothing, whoever
 * listens to them. A module of tasks that is also part of the app would end its worker in the middle of a call.
 */
export function leaveSignalsToParent(): void {
  for (const signal of SIGNALS) {
    process.removeAllListeners(signal);
    listen(signal, [() => {}]);
  }
  process.listenerCount = count;
}

/** `vm` leaves SIGINT to the system behind the last script that it may end; what would take it now is put back. */
export function takeInterruptsAgain(): void {
  const listeners = process.rawListeners('SIGINT') as (() => void)[];
  process.listenerCount = listenerCount;
  process.removeAllListeners('SIGINT');
  listen('SIGINT', listeners);
  process.listenerCount = count;
}

/** Node binds `process.emit` when the first listener of a signal comes. */
function listen(signal: NodeJS.Signals, listeners: (() => void)[]): void {
  const swallow = (event: string | symbol, ...rest: unknown[]) =>
    SIGNALS.has(event as NodeJS.Signals) ? false : Reflect.apply(emit, process, [event, ...rest]);
  const { emit: current } = process;
  process.emit = swallow as typeof emit;
  for (const listener of listeners) process.on(signal, listener);
  process.emit = current;
}

/** Around a script that a signal may end, `vm` takes the listeners off where it sees some, and adds them behind it. */
export function hideInterruptListeners(hide: boolean): void {
  hidden = hide;
}

/** Node asks for it before it gives a signal back to the system. */
function count(event: string | symbol, listener?: (...args: never[]) => void): number {
  const real = Reflect.apply(listenerCount, process, [event, listener]);
  if (!SIGNALS.has(event as NodeJS.Signals)) return real;
  return event === 'SIGINT' && hidden ? 0 : Math.max(1, real);
}
