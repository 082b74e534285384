import createError from 'http-errors';

/**
 * Every error a request or a call can end in. Each event gets a fresh one, recognised by its `code`;
 * the messages say nothing of the server's inside, the properties carry the numbers.
 */

export function timedOut(timeout: number) {
  return withoutStack(
    createError(504, 'Request exceeded the time limit for processing', { code: 'ERR_UNBLOCK_TIMEOUT', timeout }),
  );
}

/** The client, not the work, was what the request waited for: 408 (RFC 9110, section 15.5.9). */
export function uploadTimedOut(timeout: number) {
  return withoutStack(
    createError(408, 'Request body did not arrive within the time limit', {
      code: 'ERR_UNBLOCK_UPLOAD_TIMEOUT',
      timeout,
    }),
  );
}

export function callTimedOut(task: string, timeout: number) {
  return withoutStack(
    createError(504, `${task} exceeded its time limit of ${timeout} ms`, { code: 'ERR_UNBLOCK_TIMEOUT', timeout }),
  );
}

/** 499 is nginx's status for a client that left before the answer; it is never sent. */
export function clientClosed() {
  return withoutStack(
    createError(499, 'Client closed the request', {
      name: 'ClientClosedRequestError',
      code: 'ERR_UNBLOCK_CLIENT_CLOSED',
    }),
  );
}

/** Made by a timer or an event: the stack would name nothing but this package's inside, in logs and on error pages. */
function withoutStack<E extends Error>(error: E): E {
  error.stack = `${error.name}: ${error.message}`;
  return error;
}

export function tooLarge(details: {
  limit: number;
  received?: number;
  expected?: number;
  measure: 'bytes' | 'depth' | 'keys' | 'input';
}) {
  const what = {
    bytes: 'Request body is larger than',
    depth: 'Request body is nested deeper than',
    keys: 'Request body has more keys than',
    input: 'Input is larger than',
  }[details.measure];
  return createError(413, `${what} the limit of ${details.limit}${details.measure === 'bytes' ? ' bytes' : ''}`, {
    code: 'ERR_UNBLOCK_TOO_LARGE',
    type: 'entity.too.large',
    ...details,
  });
}

/** JSON between systems is UTF-8 (RFC 8259, section 8.1); in other encodings its bytes do not show its shape. */
export function unsupportedCharset(charset: string) {
  return createError(415, `Unsupported charset "${charset}"`, {
    code: 'ERR_UNBLOCK_UNSUPPORTED_CHARSET',
    type: 'charset.unsupported',
    charset,
  });
}

export function queueFull(retryAfter: number) {
  return createError(503, 'All workers are busy and the backlog is full', {
    code: 'ERR_UNBLOCK_QUEUE_FULL',
    retryAfter,
    headers: { 'Retry-After': String(retryAfter) },
  });
}

export function poolClosed() {
  return createError(503, 'The worker pool is closed', { code: 'ERR_UNBLOCK_POOL_CLOSED' });
}

/** What the operating system said of a worker's end. */
export interface Death {
  exitCode: number | null;
  signal: NodeJS.Signals | null;
}

export function workerDied(task: string, death: Death) {
  return withoutStack(
    createError(500, `The worker process stopped while running ${task}`, { code: 'ERR_UNBLOCK_WORKER_DIED', ...death }),
  );
}

export function workerNotStarted(death: Death) {
  return withoutStack(
    createError(500, 'The worker process could not start; its standard error says why', {
      code: 'ERR_UNBLOCK_WORKER_DIED',
      ...death,
    }),
  );
}

export function notSerializable(what: string, task: string, cause: unknown) {
  const reason = isErrorLike(cause) ? cause.message : String(cause);
  return createError(500, `${what} of ${task} cannot be sent between processes: ${reason}`, {
    code: 'ERR_UNBLOCK_NOT_SERIALIZABLE',
    cause,
  });
}

export function badOption(message: string) {
  return Object.assign(new TypeError(message), { code: 'ERR_UNBLOCK_BAD_OPTION' });
}

/** Behind a parser there is nothing left to count, and a limit that counts nothing would let everything pass. */
export function bodyAlreadyRead() {
  return badOption(
    'limitInput: must stand in front of what reads the body; behind it, pick what to measure with the option of',
  );
}

export function notSelfContained(task: string, problem: string) {
  return Object.assign(new TypeError(`offload: ${task} ${problem}`), { code: 'ERR_UNBLOCK_NOT_SELF_CONTAINED' });
}

export function noSuchExport(name: string, file: string, exported: string[]) {
  const list = exported.length > 0 ? `it exports ${exported.join(', ')}` : 'it exports no function';
  return Object.assign(new TypeError(`offload.module: ${file} exports no function "${name}"; ${list}`), {
    code: 'ERR_UNBLOCK_NO_SUCH_EXPORT',
  });
}

/** Express takes a falsy error, `'route'` and `'router'` for something else than a failure. */
export function asError(thrown: unknown): unknown {
  if (typeof thrown === 'object' && thrown !== null) return thrown;
  const what = typeof thrown === 'string' ? JSON.stringify(thrown) : String(thrown);
  return createError(500, `Something was thrown that is no error: ${what}`, { cause: thrown });
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
