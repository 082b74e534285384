import { type IncomingMessage, type ServerResponse, STATUS_CODES } from 'node:http';
import { checkOptions, parseChoice } from './options';

export interface ProblemDetailsOptions {
  /** Shows clients the message of 5xx errors too. For development: such messages may tell of the inside. Default false. */
  readonly expose?: boolean | undefined;
}

interface Failure {
  status?: unknown;
  statusCode?: unknown;
  expose?: unknown;
  message?: unknown;
  code?: unknown;
  headers?: unknown;
}

/** The properties of an error that clients may read, beside its status and message. */
const PUBLIC = ['limit', 'received', 'expected', 'measure', 'timeout', 'retryAfter', 'size', 'manages'] as const;

/** An error of an HTTP client library may carry the headers and body of another server's response. */
const NOT_ITS_OWN = /^(content-.*|transfer-encoding|trailer|connection|keep-alive|upgrade|set-cookie)$/i;

/**
 * An Express error handler that answers with `application/problem+json` (RFC 9457), for apps that have none of their
 * own: `type`, `title`, `status`, `detail`, `code` and the error's public numbers, such as `limit`. The detail of 5xx
 * errors stays private unless `expose` is set. A client that left (499) is sent nothing.
 */
export function problemDetails(options: ProblemDetailsOptions = {}) {
  checkOptions('problemDetails', options, ['expose']);
  const { expose = false } = options;
  const exposeAll = parseChoice('problemDetails', 'expose', expose, [true, false]);

  // Express tells an error handler by its four parameters.
  return function problemDetailsHandler(
    error: unknown,
    _req: IncomingMessage,
    res: ServerResponse,
    next: (error?: unknown) => void,
  ): void {
    const failure: Failure = typeof error === 'object' && error !== null ? error : {};
    const status = statusOf(failure);
    if (status === 499) {
      res.destroy();
      return;
    }
    if (res.headersSent) {
      next(error);
      return;
    }
    const body = JSON.stringify(describe(failure, status, exposeAll));
    // Express's own final handler does so, too: these headers describe a body that is not sent.
    for (const name of ['Content-Encoding', 'Content-Language', 'Content-Range']) res.removeHeader(name);
    for (const [name, value] of headersOf(failure)) res.setHeader(name, value);
    res.statusCode = status;
    res.statusMessage = '';
    res.setHeader('Content-Type', 'application/problem+json; charset=utf-8');
    res.setHeader('Content-Length', Buffer.byteLength(body));
    res.end(body);
  };
}

function statusOf(failure: Failure): number {
  return ownStatus(failure) ?? 500;
}

/** `undefined` for an error without an HTTP status. */
function ownStatus({ status, statusCode }: Failure): number | undefined {
  const given = status ?? statusCode;
  return Number.isInteger(given) && (given as number) >= 400 && (given as number) <= 599
    ? (given as number)
    : undefined;
}

/** Express's own final handler has the same rule: `headers` of other errors may be anything. */
function headersOf(failure: Failure): [string, string | number][] {
  const { headers } = failure;
  if (ownStatus(failure) === undefined || typeof headers !== 'object' || headers === null) return [];
  return Object.entries(headers).filter(
    ([name, value]) => !NOT_ITS_OWN.test(name) && ['string', 'number'].includes(typeof value),
  );
}

function describe(failure: Failure, status: number, exposeAll: boolean) {
  const shown = exposeAll || (typeof failure.expose === 'boolean' ? failure.expose : status < 500);
  const facts = PUBLIC.map((name) => [name, (failure as Record<string, unknown>)[name]]);
  return {
    type: 'about:blank',
    title: STATUS_CODES[status] ?? 'Error',
    status,
    ...(shown && typeof failure.message === 'string' ? { detail: failure.message } : {}),
    ...(typeof failure.code === 'string' && (shown || failure.code.startsWith('ERR_UNBLOCK_'))
      ? { code: failure.code }
      : {}),
    ...Object.fromEntries(
      facts.filter(
        ([name, value]) => Number.isFinite(value) || (shown && name === 'measure' && typeof value === 'string'),
      ),
    ),
  };
}
