import { channel } from 'node:diagnostics_channel';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { isErrorLike } from '../errors';
import { contexts, currentContext } from './context';
import type { RequestDeadline } from './deadline';
import { filterProcessEvents } from './patches';

const late = channel('express-unblock:late');

/** A request that failed while its handlers may be at work; kept while what they still do is told. */
export class Failure {
  readonly #since = performance.now();
  readonly #told = new Set<unknown>();

  constructor(
    private readonly req: IncomingMessage,
    private readonly res: ServerResponse,
  ) {}

  /** What is done late is told once, and each error of a handler's own besides. */
  tell(method: string, error: unknown, isOwnError: boolean): void {
    const event = isOwnError ? error : Failure;
    if (this.#told.has(event)) return;
    this.#told.add(event);
    const { req, res } = this;
    if (late.hasSubscribers) late.publish({ req, res, method, lateBy: performance.now() - this.#since, error });
    else if (isOwnError) warn(error);
  }
}

/** Tells of what code does, or fails with, that has lost the response. */
export function reportLate(deadline: RequestDeadline, method: string, error?: unknown): void {
  const isOwnError = error !== undefined && !isAbort(deadline, error);
  if (deadline.failure !== undefined) deadline.failure.tell(method, error, isOwnError);
  else if (isOwnError) warn(error);
}

/** Runs a handler's listener, whose error is the handler's. */
export function callLate(deadline: RequestDeadline, listener: () => unknown): void {
  try {
    contexts.run(deadline.handlers, listener);
  } catch (error) {
    reportLate(deadline, 'throw', error);
  }
}

let forgives = false;

/**
 * A handler that is stopped may well fail, if only because its signal aborted what it waited for; nobody waits for its
 * answer, and on Express 4 nobody is there to catch it. Node offers such errors to the process before it ends it.
 * Those of a late handler, told by the async context, and those that are the abort itself go no further; for all
 * others, listeners or none, nothing changes.
 */
export function forgiveLateErrors(): void {
  if (forgives) return;
  forgives = true;
  filterProcessEvents(mayForgive, (event, error) => {
    const deadline = currentContext()?.deadline;
    if (deadline === undefined || !(isLate(deadline) || isAbort(deadline, error))) return false;
    if (event === 'unhandledRejection') reportLate(deadline, 'reject', error);
    else if (event === 'uncaughtException') reportLate(deadline, 'throw', error);
    return true;
  });
}

function mayForgive(): boolean {
  const deadline = currentContext()?.deadline;
  return deadline !== undefined && (isLate(deadline) || deadline.reason !== undefined);
}

function isLate(deadline: RequestDeadline): boolean {
  return deadline.failure !== undefined && !deadline.mayAnswer();
}

/** By these names, streams and body parsers say that a request was given up; an abort also comes as another's cause. */
const OF_ABORTS = ['ABORT_ERR', 'ECONNABORTED', 'ECONNRESET', 'ERR_STREAM_PREMATURE_CLOSE', 'ERR_STREAM_DESTROYED'];

function isAbort({ reason }: RequestDeadline, error: unknown): boolean {
  if (reason === undefined || typeof error !== 'object' || error === null) return false;
  const { cause, code, message } = error as { cause?: unknown; code?: string; message?: string };
  return (
    error === reason ||
    cause === reason ||
    OF_ABORTS.includes(code ?? '') ||
    /^request (aborted|closed)/i.test(message ?? '')
  );
}

export function warn(error: unknown): void {
  // As text: an error of another realm is refused.
  if (isErrorLike(error)) process.emitWarning(error.message, { type: error.name, detail: framesOf(error) });
  else process.emitWarning(String(error));
}

function framesOf({ stack = '' }: Error): string {
  return stack.slice(Math.max(0, stack.search(/^ +at /m)));
}
