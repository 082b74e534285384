import type { IncomingHttpHeaders } from 'node:http';

/** What a request's headers say of the time that its sender still has, in milliseconds. */
export interface UpstreamTime {
  /** How long the sender waits for the answer; `Infinity` if it does not say. */
  readonly limit: number;
  /** How long the request has been on its way since the first proxy that says so. */
  readonly waited: number;
  /** When the headers were read, on the clock of `performance.now()`: both count from then. */
  readonly readAt: number;
}

const UNITS: Record<string, number> = { H: 3_600_000, M: 60_000, S: 1000, m: 1, u: 1e-3, n: 1e-6 };

/** A timestamp older than this tells of a wrong clock, time zone or unit: no proxy holds a request for an hour. */
const LONGEST_WAIT = 3_600_000;

/**
 * Proxies that each add a header make a list of it: the earliest counts. What cannot be read is left out.
 *
 * @param now a timestamp in milliseconds, as `Date.now()` gives it
 */
export function readUpstreamTime(headers: IncomingHttpHeaders = {}, now = Date.now()): UpstreamTime {
  const limits = [
    ...read(headers['x-envoy-expected-rq-timeout-ms'], milliseconds),
    ...read(headers['grpc-timeout'], grpcTimeout),
  ];
  const waits = read(headers['x-request-start'], (text) => waitedSince(text, now));
  return {
    limit: Math.min(Number.POSITIVE_INFINITY, ...limits),
    waited: Math.max(0, ...waits),
    readAt: performance.now(),
  };
}

/** The headers that tell another service what is left of the time; 0 tells it not to begin. */
export function upstreamHeaders(left: number): Record<string, string> {
  if (left === Number.POSITIVE_INFINITY) return {};
  const whole = Math.floor(left); // Rounded down: the next service must not have more time than we do.
  return {
    'x-envoy-expected-rq-timeout-ms': String(whole),
    // A number of more than eight digits is none in gRPC.
    'grpc-timeout': whole < 1e8 ? `${whole}m` : `${Math.floor(whole / 1000)}S`,
  };
}

function read(header: string | string[] | undefined, parse: (text: string) => number | undefined): number[] {
  const values = String(header ?? '').split(',');
  return values.map((text) => parse(text.trim())).filter((value) => value !== undefined);
}

/** Envoy's header is a whole number. */
function milliseconds(text: string): number | undefined {
  return /^\d+$/.test(text) ? Number(text) : undefined;
}

/** `TimeoutValue TimeoutUnit` of gRPC over HTTP/2: one to eight digits, hours to nanoseconds. */
function grpcTimeout(text: string): number | undefined {
  const [, value, unit] = /^(\d{1,8})([HMSmun])$/.exec(text) ?? [];
  return unit === undefined ? undefined : Number(value) * (UNITS[unit] as number);
}

/**
 * Nginx and New Relic's agents send seconds with a fraction, Heroku milliseconds, Apache microseconds, some after `t=`.
 * Read in the wrong unit, a timestamp of these days is decades off.
 */
function waitedSince(text: string, now: number): number | undefined {
  const [, timestamp] = /^(?:t=)?(\d+(?:\.\d+)?)$/.exec(text) ?? [];
  if (timestamp === undefined) return undefined;
  const waits = [UNITS.S, UNITS.m, UNITS.u].map((unit) => now - Number(timestamp) * (unit as number));
  return waits.find((wait) => wait >= 0 && wait <= LONGEST_WAIT);
}
