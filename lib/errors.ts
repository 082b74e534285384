import type createHttpError from 'http-errors';
import type * as factories from './errors';

/**
 * Every error a request or a call can end in. Each event gets a fresh one, recognised by its `code`;
 * the messages say nothing of the server's inside, the properties carry the numbers.
 */

/** What to answer with: an error of `http-errors`. Clients may read its message where `expose` is true. */
interface Failure<Code extends string, Status extends number> extends Error {
  readonly code: Code;
  readonly status: Status;
  readonly statusCode: Status;
  readonly expose: boolean;
}

/** A mistake in the code that calls this package. */
interface Misuse<Code extends string> extends TypeError {
  readonly code: Code;
  readonly status?: undefined;
}

type Made<F> = F extends (...args: never[]) => infer E ? Extract<E, { readonly code: string }> : never;

/** Every error of this package, told apart by its `code`, with what each carries. */
export type UnblockError = { [Name in keyof typeof factories]: Made<(typeof factories)[Name]> }[keyof typeof factories];

let create: typeof createHttpError | undefined;

/** `http-errors` is a third of the files of this package. An app loads it at setup, a worker with its first error. */
export function loadErrors(): typeof createHttpError {
  create ??= require('http-errors') as typeof createHttpError;
  return create;
}

function failure<const Status extends number, const Code extends string, Facts extends object>(
  status: Status,
  code: Code,
  message: string,
  facts: Facts,
): Failure<Code, Status> & Readonly<Facts> {
  return loadErrors()(status, message, { code, ...facts }) as never;
}

/** Express's own error handler and `problemDetails` send the header. */
function unavailable<const Code extends string>(code: Code, message: string, retryAfter: number) {
  return failure(503, code, message, { retryAfter, headers: { 'Retry-After': String(retryAfter) } });
}

function misuse<const Code extends string>(code: Code, message: string): Misuse<Code> {
  return Object.assign(new TypeError(message), { code });
}

export function timedOut(timeout: number) {
  const message = 'Request exceeded the time limit for processing';
  return withoutStack(failure(504, 'ERR_UNBLOCK_TIMEOUT', message, { timeout }));
}

/** The client, not the work, was what the request waited for: 408 (RFC 9110, section 15.5.9). */
export function uploadTimedOut(timeout: number) {
  const message = 'Request body did not arrive within the time limit';
  return withoutStack(failure(408, 'ERR_UNBLOCK_UPLOAD_TIMEOUT', message, { timeout }));
}

export function callTimedOut(task: string, timeout: number) {
  const message = `${task} exceeded its time limit of ${Math.ceil(timeout)} ms`;
  return withoutStack(failure(504, 'ERR_UNBLOCK_TIMEOUT', message, { timeout }));
}

/** 499 is nginx's status for a client that left before the answer; it is never sent. */
export function clientClosed() {
  const name = 'ClientClosedRequestError';
  return withoutStack(failure(499, 'ERR_UNBLOCK_CLIENT_CLOSED', 'Client closed the request', { name }));
}

/** Made by a timer or an event: the stack would name nothing but this package's inside, in logs and on error pages. */
function withoutStack<E extends Error>(error: E): E {
  error.stack = `${error.name}: ${error.message}`;
  return error;
}

/** What was measured, and how large it may be. */
interface Excess {
  readonly limit: number;
  /** So much had come when it was refused. */
  readonly received?: number;
  /** So much the `Content-Length` announced. */
  readonly expected?: number;
  readonly measure: 'bytes' | 'depth' | 'keys' | 'input' | 'arguments' | 'result' | 'progress';
}

export function tooLarge(excess: Excess) {
  const { measure, limit } = excess;
  const what = {
    bytes: 'Request body is larger than',
    depth: 'Request body is nested deeper than',
    keys: 'Request body has more keys than',
    input: 'Input is larger than',
    arguments: 'The arguments are larger than',
    result: 'The result is larger than',
    progress: 'A progress report is larger than',
  }[measure];
  // The server's own result is not the client's fault.
  const status = measure === 'result' || measure === 'progress' ? 500 : 413;
  const message = `${what} the limit of ${limit}${measure === 'bytes' ? ' bytes' : ''}`;
  return failure<413 | 500, 'ERR_UNBLOCK_TOO_LARGE', Excess & { type: string }>(
    status,
    'ERR_UNBLOCK_TOO_LARGE',
    message,
    { type: 'entity.too.large', ...excess },
  );
}

/** JSON between systems is UTF-8 (RFC 8259, section 8.1); in other encodings its bytes do not show its shape. */
export function unsupportedCharset(charset: string) {
  const message = `Unsupported charset "${charset}"`;
  return failure(415, 'ERR_UNBLOCK_UNSUPPORTED_CHARSET', message, { type: 'charset.unsupported', charset });
}

/** No worker, however idle, has an input of this size done in time. */
export function tooSlow(facts: { limit: number; size: number; manages: number | undefined }) {
  const message = `An input of size ${facts.size} takes longer than the time limit of ${facts.limit} ms`;
  return failure(413, 'ERR_UNBLOCK_TOO_SLOW', message, facts);
}

/** The call itself would be in time; the calls before it take too long. */
export function overloaded(retryAfter: number) {
  return unavailable('ERR_UNBLOCK_OVERLOADED', 'The backlog takes longer than the time limit', retryAfter);
}

export function queueFull(retryAfter: number) {
  return unavailable('ERR_UNBLOCK_QUEUE_FULL', 'All workers are busy and the backlog is full', retryAfter);
}

/** A pool on other machines: its Redis is away, or no service is up. */
export function unreachable(retryAfter: number, cause?: unknown) {
  const error = unavailable('ERR_UNBLOCK_UNREACHABLE', 'The workers on other machines cannot be reached', retryAfter);
  return withCause(error, cause);
}

/** Not on the allow-list of the service that was asked. */
export function noSuchModule(module: string) {
  return failure(500, 'ERR_UNBLOCK_NO_SUCH_MODULE', `The service does not serve the module ${module}`, { module });
}

/** Users of `express-unblock/bullmq` install the packages that only it needs. */
export function missingPeer(name: string, cause: unknown): Error {
  const message = `express-unblock/bullmq needs the package ${name}: npm install bullmq ioredis`;
  return Object.assign(new Error(message, { cause }), { code: 'MODULE_NOT_FOUND' });
}

export function poolClosed() {
  return failure(503, 'ERR_UNBLOCK_POOL_CLOSED', 'The worker pool is closed', {});
}

/** What the operating system said of a worker's end. */
export interface Death {
  readonly exitCode: number | null;
  readonly signal: NodeJS.Signals | null;
}

export function workerDied(task: string, death: Death) {
  const message = `The worker process stopped while running ${task}`;
  return withoutStack(failure(500, 'ERR_UNBLOCK_WORKER_DIED', message, death));
}

export function workerNotStarted(death: Death, cause: unknown) {
  const message = 'The worker process could not start; the cause says why';
  return withCause(withoutStack(failure(500, 'ERR_UNBLOCK_WORKER_DIED', message, death)), cause);
}

/** The cause of `workerNotStarted`, if no error of Node's tells it. */
export function startError(reason: string): Error {
  return withoutStack(new Error(reason));
}

export function notSerializable(what: string, task: string, cause: unknown) {
  const reason = isErrorLike(cause) ? cause.message : String(cause);
  const message = `${what} of ${task} cannot be sent between processes: ${reason}`;
  return withCause(failure(500, 'ERR_UNBLOCK_NOT_SERIALIZABLE', message, {}), cause);
}

/** Sets the cause as `new Error(message, { cause })` does: as a property that is not enumerable. */
function withCause<E extends Error>(error: E, cause: unknown): E {
  if (cause === undefined) return error;
  return Object.defineProperty(error, 'cause', { value: cause, writable: true, configurable: true });
}

export function badOption(message: string) {
  return misuse('ERR_UNBLOCK_BAD_OPTION', message);
}

/** Behind a parser no bytes are left to count: the limit would let everything pass. */
export function bodyAlreadyRead() {
  return badOption(
    'limitInput: must stand in front of what reads the body; behind it, pick what to measure with the option of',
  );
}

/** A bundle does not contain the files of the workers. */
export function inBundle() {
  return badOption(
    'express-unblock: its workers run files of its own, so keep it out of the bundle and install it beside it: ' +
      'esbuild --external:express-unblock, ncc -e express-unblock, or externals in webpack and Rollup',
  );
}

export function notSelfContained(task: string, problem: string) {
  return misuse('ERR_UNBLOCK_NOT_SELF_CONTAINED', `offload: ${task} ${problem}`);
}

export function noSuchExport(name: string, file: string, exported: string[]) {
  const list = exported.length > 0 ? `it exports ${exported.join(', ')}` : 'it exports no function';
  const message = `offload.module: ${file} exports no function "${name}"; ${list}`;
  return misuse('ERR_UNBLOCK_NO_SUCH_EXPORT', message);
}

/** The error of a module that could not be imported. Its message names the file, unless its stack does already. */
export function importFailed(file: string, thrown: unknown): unknown {
  const error = isErrorLike(thrown) ? thrown : new Error(String(thrown), { cause: thrown });
  if (`${error.message} ${error.stack}`.includes(file)) return error;
  return Object.assign(error, { message: `${file} cannot be imported: ${error.message}` });
}

/** Express does not treat a falsy error, `'route'` or `'router'` as a failure. */
export function asError(thrown: unknown): unknown {
  if (typeof thrown === 'object' && thrown !== null) return thrown;
  const what = typeof thrown === 'string' ? JSON.stringify(thrown) : String(thrown);
  return loadErrors()(500, `Something was thrown that is no error: ${what}`, { cause: thrown });
}

/** True across realms too, where `instanceof` is not: worker threads, `vm` contexts, jest. */
export function isErrorLike(value: unknown): value is Error {
  return (
    typeof value === 'object' &&
    value !== null &&
    typeof (value as Error).message === 'string' &&
    typeof (value as Error).stack === 'string'
  );
}
