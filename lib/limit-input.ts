import { AsyncResource } from 'node:async_hooks';
import { channel } from 'node:diagnostics_channel';
import type { IncomingHttpHeaders, IncomingMessage, ServerResponse } from 'node:http';
import { isAnyArrayBuffer, isMap, isSet } from 'node:util/types';
import type { Request } from 'express';
import type { HttpError } from 'http-errors';
import { asError, bodyAlreadyRead, loadErrors, tooLarge, unsupportedCharset } from './errors';
import { checkCall, checkOptions, invalid, parseFunction, parseInteger, parseSize, type Size } from './options';
import { abandonBody } from './request/connection';
import { contexts, type RequestContext } from './request/context';
import { checkVersion, deadlineOf, isUpgrade } from './request/deadline';
import { type JsonLimits, JsonShape } from './request/json-shape';
import { type Next, watchChunks } from './request/patches';
import { cutOff, exitOf, type Failing, takeOver } from './request/response';

export type { JsonLimits };

export interface LimitInputOptions {
  /**
   * Measures something else than the bytes on the wire, once a parser has run: strings count characters, arrays items,
   * binary data bytes, `Map` and `Set` entries, a number is the size itself, `undefined` and `null` have size 0.
   */
  readonly of?: ((req: Request) => unknown) | undefined;
  /** Limits the shape of JSON bodies, as their bytes arrive and before anything parses them. */
  readonly json?: JsonLimits | undefined;
}

const rejected = channel('express-unblock:reject');

/**
 * Refuses a request whose input is larger than `max`, before any work is done for it. Before a body parser it counts
 * bytes on the wire: a `Content-Length` over `max` is refused before a byte of the body is read, a chunked body at
 * byte `max + 1`. The answer reaches the client while it is still uploading (RFC 9110, section 15.5.14), and an
 * `Expect: 100-continue` over `max` is never told to continue (section 10.1.1). With `of` it measures parsed input.
 *
 * @param max bytes (or the unit of `of`), 0 or more; or a string such as `'100kb'`; or a function of the request
 *   returning either
 * @throws TypeError `ERR_UNBLOCK_BAD_OPTION` where it is called with something else
 *
 * Errors handed to `next`: 413 `ERR_UNBLOCK_TOO_LARGE` (`type: 'entity.too.large'`) with `limit`, and `received` or,
 * where `Content-Length` alone condemned it, `expected`. With `json`, JSON in another charset than UTF-8, whose shape
 * cannot be seen: 415 `ERR_UNBLOCK_UNSUPPORTED_CHARSET`. Behind what has read the body already, without `of`:
 * `ERR_UNBLOCK_BAD_OPTION`, unless `Content-Length` tells all there is to know.
 */
export function limitInput(max: Size | ((req: Request) => Size), options: LimitInputOptions = {}) {
  loadErrors();
  checkCall('limitInput', max, "limitInput('1mb')");
  checkOptions('limitInput', options, ['of', 'json']);
  const fixed = typeof max === 'function' ? undefined : parseSize('limitInput', 'max', max);
  const limitOf = (req: IncomingMessage) =>
    fixed ?? parseSize('limitInput', 'the size returned', (max as (req: Request) => Size)(req as Request));
  const of = options.of === undefined ? undefined : parseFunction('limitInput', 'of', options.of);
  const json = options.json === undefined ? undefined : parseShape(options.json);
  if (of !== undefined && json !== undefined) {
    throw invalid('limitInput', 'json', 'left out beside of, which measures what is parsed already', options.json);
  }

  if (of !== undefined) {
    return function limitInputMiddleware(req: IncomingMessage, res: ServerResponse, next: Next): void {
      let error: unknown;
      try {
        const limit = limitOf(req);
        const received = sizeOf(of(req as Request), limit);
        if (received > limit) error = report(req, res, tooLarge({ limit, received, measure: 'input' }));
      } catch (thrown) {
        error = asError(thrown);
      }
      if (error === undefined) next();
      else next(error);
    };
  }

  return function limitInputMiddleware(req: IncomingMessage, res: ServerResponse, next: Next): void {
    // The bytes after an upgrade are no body.
    if (isUpgrade(req)) {
      next();
      return;
    }
    let limit: number;
    try {
      checkVersion(req);
      limit = limitOf(req);
    } catch (error) {
      exitOf(req, res, next)(asError(error) as Failing);
      return;
    }
    const { headers = {} } = req; // A mock may have none.
    const chunked = headers['transfer-encoding'] !== undefined;
    const expected = chunked ? 0 : Number(headers['content-length'] ?? 0);
    if (expected > limit) {
      refuseUnread(req, res, tooLarge({ limit, expected, measure: 'bytes' }), next, expected);
      return;
    }
    const shape = json !== undefined && isPlainJson(headers) ? new JsonShape(json) : undefined;
    const charset = shape === undefined ? UTF_8 : charsetOf(headers);
    if (expected === 0 && !chunked) next();
    else if (charset !== UTF_8) next(report(req, res, unsupportedCharset(charset)));
    else if (!chunked && shape === undefined) next();
    else if (req.readableEnded && req.readableDidRead) next(bodyAlreadyRead());
    else watch(req, res, limit, shape, next);
  };
}

function parseShape(json: JsonLimits): JsonLimits {
  checkOptions('limitInput json', json, ['depth', 'keys']);
  const parse = (name: 'depth' | 'keys') =>
    json[name] === undefined ? undefined : parseInteger('limitInput', `json.${name}`, json[name], 0);
  return { depth: parse('depth'), keys: parse('keys') };
}

/** The shape of compressed JSON is seen by the parser only, which has limits of its own. */
function isPlainJson(headers: IncomingHttpHeaders): boolean {
  const encoding = headers['content-encoding'] || 'identity';
  return encoding.toLowerCase() === 'identity' && /^[^;]*[/+]json\s*(;|$)/i.test(headers['content-type'] ?? '');
}

const UTF_8 = 'utf-8';

/** The first charset that is not UTF-8: if there are several, parsers differ in which one they use. */
function charsetOf(headers: IncomingHttpHeaders): string {
  const all = (headers['content-type'] ?? '').matchAll(/;\s*charset\s*=\s*"?([^\s";]+)/gi);
  return (
    Array.from(all, ([, charset]) => charset as string).find((charset) => !/^(utf-?8|us-ascii)$/i.test(charset)) ??
    UTF_8
  );
}

/**
 * Counts where bytes enter the stream: a `data` listener would make it flow before the parser is there to read.
 */
function watch(
  req: IncomingMessage,
  res: ServerResponse,
  limit: number,
  shape: JsonShape | undefined,
  next: Next,
): void {
  let received = 0;
  const look = (data: Uint8Array | string): HttpError | undefined => {
    const chunk = typeof data === 'string' ? Buffer.from(data) : data;
    received += chunk.length;
    if (received > limit) return tooLarge({ limit, received, measure: 'bytes' });
    const measure = shape?.scan(chunk);
    if (shape === undefined || measure === undefined) return undefined;
    return tooLarge({ limit: measure === 'depth' ? shape.maxDepth : shape.maxKeys, received: shape[measure], measure });
  };

  const waiting = peek(req, res);
  const error = waiting === undefined ? undefined : look(waiting);
  if (error !== undefined) {
    refuseUnread(req, res, error, next);
    return;
  }

  const exit = exitOf(req, res, next);
  // A body arrives outside of the app's own async context.
  const onError = AsyncResource.bind((error: HttpError) => refuse(req, res, report(req, res, error), exit));
  let handlers: RequestContext;
  try {
    ({ handlers } = deadlineOf(req, res));
    watchChunks(req, handlers, (chunk) => {
      const error = chunk === null ? undefined : look(chunk);
      if (error !== undefined) onError(error);
      return error !== undefined;
    });
  } catch (error) {
    exit(error as Failing);
    return;
  }
  contexts.run(handlers, next);
}

/** The part of the body that arrived while an earlier middleware waited. */
function peek(req: IncomingMessage, res: ServerResponse): Buffer | undefined {
  if (!req.readableLength) return undefined;
  // Reading emits `data`, and the listeners would get these bytes twice.
  const listeners = req.rawListeners('data') as ((chunk: unknown) => void)[];
  req.removeAllListeners('data');
  const waiting = req.read(req.readableLength);
  const encoding = req.readableEncoding ?? undefined;
  req.unshift(waiting, encoding);
  for (const listener of listeners) req.on('data', listener);
  // Node drains a body that nobody reads, but it takes `read()` for a reader.
  res.on('finish', () => {
    if (req.readableFlowing === null) req.resume();
  });
  return Buffer.from(waiting, encoding);
}

/** No handler has seen the request yet. */
function refuseUnread(
  req: IncomingMessage,
  res: ServerResponse,
  error: HttpError,
  next: Next,
  remainder?: number,
): void {
  report(req, res, error);
  const exit = exitOf(req, res, next);
  abandonBody(req, res, remainder, () => exit(error));
}

/** The handlers are at work already. If their answer has begun, only cutting it off tells the client of the failure. */
function refuse(req: IncomingMessage, res: ServerResponse, error: HttpError, exit: (error: Failing) => void): void {
  if (res.headersSent && !res.writableEnded) cutOff(req, res, error);
  else if (res.headersSent) abandonBody(req, res);
  else takeOver(req, res, error, () => abandonBody(req, res, undefined, () => exit(error)));
}

function report<E extends HttpError>(req: IncomingMessage, res: ServerResponse, error: E): E {
  rejected.publish({ req, res, error });
  return error;
}

function sizeOf(value: unknown, limit: number): number {
  if (value === undefined || value === null) return 0;
  if (typeof value === 'number' && value >= 0) return value;
  // A character is one or two units of a string's length, so that a short string need not be counted.
  if (typeof value === 'string') return value.length <= limit ? value.length : countCharacters(value);
  if (Array.isArray(value)) return value.length;
  if (ArrayBuffer.isView(value) || isAnyArrayBuffer(value)) return value.byteLength;
  if (isMap(value) || isSet(value)) return value.size;
  // Clients choose the JSON that they send: a `length` or `size` of a parsed object must not be trusted.
  throw Object.assign(
    invalid('limitInput', 'what of returns', 'a string, an array, binary data, a Map, a Set or a number', value),
    { status: 400, expose: false },
  );
}

function countCharacters(text: string): number {
  let count = 0;
  for (const _ of text) count++;
  return count;
}
