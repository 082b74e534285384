import { channel } from 'node:diagnostics_channel';
import { contexts, type RequestContext } from './context';

const late = channel('express-unblock:late');

let forgiving = false;

/**
 * A handler that is stopped may well fail, if only because its signal aborted what it waited for; nobody waits for its
 * answer, and on Express 4 nobody is there to catch it. Node offers such errors to the process before it ends it.
 * Those of a late handler, told by the async context, and those that are the abort itself go no further; for all
 * others, listeners or none, nothing changes.
 */
export function forgiveLateErrors(): void {
  if (forgiving) return;
  forgiving = true;
  const { emit } = process;
  process.emit = function emitUnlessLate(event: string, ...args: unknown[]) {
    const context = contexts.getStore();
    const failed = event === 'unhandledRejection' || event === 'uncaughtException';
    if (failed && context !== undefined && forgive(context, event, args[0])) return true;
    return Reflect.apply(emit, this, [event, ...args]);
  };
}

function forgive({ late: report, deadline }: RequestContext, event: string, error: unknown): boolean {
  const { reason } = deadline;
  const isAbort = reason !== undefined && (error === reason || (error as { cause?: unknown } | null)?.cause === reason);
  if (report === undefined && !isAbort) return false;
  report?.(event === 'unhandledRejection' ? 'reject' : 'throw', error);
  // An error of the handler's own is not lost where nobody listens.
  if (!isAbort && !late.hasSubscribers) process.emitWarning(error instanceof Error ? error : String(error));
  return true;
}
