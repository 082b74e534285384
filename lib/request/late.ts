import { channel } from 'node:diagnostics_channel';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { isErrorLike } from '../errors';
import { contexts, currentContext } from './context';
import type { RequestDeadline } from './deadline';
import { filterProcessEvents } from './patches';

const late = channel('express-unblock:late');

/** A request that failed while its handlers may be at work; kept while their late calls are reported. */
export class Failure {
  readonly #since = performance.now();
  readonly #told = new Set<unknown>();

  constructor(
    private readonly req: IncomingMessage,
    private readonly res: ServerResponse,
  ) {}

  /** Reports the first late call, and each error of the handler's own. */
  tell(method: string, error: unknown, isOwnError: boolean): void {
    const event = isOwnError ? error : Failure;
    if (this.#told.has(event)) return;
    this.#told.add(event);
    const { req, res } = this;
    if (late.hasSubscribers) late.publish({ req, res, method, lateBy: performance.now() - this.#since, error });
    else if (isOwnError) warn(error);
  }
}

/** Reports a call or an error of code that no longer owns the response. */
export function reportLate(deadline: RequestDeadline, method: string, error?: unknown): void {
  const isOwnError = error !== undefined && !isAbort(deadline, error);
  if (deadline.failure !== undefined) deadline.failure.tell(method, error, isOwnError);
  else if (isOwnError) warn(error);
}

/** Runs a handler's listener; its error counts as the handler's. */
export function callLate(deadline: RequestDeadline, listener: () => unknown): void {
  try {
    contexts.run(deadline.handlers, listener);
  } catch (error) {
    reportLate(deadline, 'throw', error);
  }
}

let forgives = false;

/**
 * A stopped handler may fail, often because its signal aborted the operation that it waited for. Nobody waits for its
 * answer, and Express 4 does not catch its rejection. Node emits such errors on `process` before it ends the process.
 * Errors of a late handler, known by the async context, and errors that are the abort itself are stopped there. All
 * other errors are handled as without this.
 */
export function forgiveLateErrors(): void {
  if (forgives) return;
  forgives = true;
  const mayStop = () => currentContext()?.deadline.reason !== undefined;
  filterProcessEvents(mayStop, (event, error) => {
    const deadline = currentContext()?.deadline;
    if (deadline === undefined || (deadline.mayAnswer() && !isAbort(deadline, error))) return false;
    if (event === 'unhandledRejection') reportLate(deadline, 'reject', error);
    else if (event === 'uncaughtException') reportLate(deadline, 'throw', error);
    return true;
  });
}

/** The codes by which streams and body parsers say that a request was aborted. It can also be the cause of another error. */
const OF_ABORTS = ['ABORT_ERR', 'ECONNABORTED', 'ECONNRESET', 'ERR_STREAM_PREMATURE_CLOSE', 'ERR_STREAM_DESTROYED'];

function isAbort({ reason }: RequestDeadline, error: unknown): boolean {
  if (reason === undefined) return false;
  const { cause, code, message } = Object(error) as { cause?: unknown; code?: string; message?: string };
  return (
    error === reason ||
    cause === reason ||
    OF_ABORTS.includes(code ?? '') ||
    /^request (aborted|closed)/i.test(message ?? '')
  );
}

export function warn(error: unknown): void {
  // Passed as text, since `emitWarning` refuses an error of another realm.
  if (isErrorLike(error)) process.emitWarning(error.message, { type: error.name, detail: framesOf(error) });
  else process.emitWarning(String(error));
}

function framesOf({ stack = '' }: Error): string {
  return stack.slice(Math.max(0, stack.search(/^ +at /m)));
}
