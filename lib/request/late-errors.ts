import { contexts } from './deadline';

let forgiving = false;

/**
 * A handler that goes on after its deadline may well fail, if only because its signal aborted what it waited for; the
 * request has been answered, and nobody is there to catch it. Node offers such errors to the process before it ends
 * it. Those of a late handler, told by the async context, are reported and go no further; for all others, listeners
 * or none, nothing changes.
 */
export function forgiveLateErrors(): void {
  if (forgiving) return;
  forgiving = true;
  const { emit } = process;
  process.emit = function emitUnlessLate(event: string, ...args: unknown[]) {
    if (event === 'unhandledRejection' || event === 'uncaughtException') {
      const report = contexts.getStore()?.late;
      report?.(event === 'unhandledRejection' ? 'reject' : 'throw', args[0]);
      if (report !== undefined) return true;
    }
    return Reflect.apply(emit, this, [event, ...args]);
  };
}
