import { IncomingMessage } from 'node:http';
import bytes from 'bytes';
import ms from 'ms';
import { badOption } from './errors';

/** Milliseconds, or a string that the `ms` package reads, such as `'5s'` or `'2 minutes'`. 1 to 2147483647 ms. */
export type Time = number | string;

/** Bytes, or a string that the `bytes` package reads, such as `'100kb'` (1 kb is 1024 bytes). */
export type Size = number | string;

/** Node's timers hold a signed 32-bit number of milliseconds; anything else fires after 1 ms. */
const LONGEST = 2 ** 31 - 1;

/** The error of a wrong setting: which function expected what, and what it got instead. */
export function invalid(who: string, name: string, expected: string, got: unknown): TypeError {
  return badOption(`${who}: ${name} must be ${expected}, got ${show(got)}`);
}

/** Catches `app.use(timeout)`, which calls the factory itself with a request. */
export function checkCall(who: string, first: unknown, example: string): void {
  if (first instanceof IncomingMessage)
    throw badOption(`${who}: makes a middleware and is none; write app.use(${example})`);
}

/** Refuses anything but an options object, and unknown options: a misspelt one would silently be the default. */
export function checkOptions(who: string, options: object, known: readonly string[]): void {
  const prototype = typeof options === 'object' && options !== null ? Object.getPrototypeOf(options) : undefined;
  // A pool, a signal or an array is a mistake. Plain objects of other realms are plain, too.
  if (prototype === undefined || (prototype !== null && Object.getPrototypeOf(prototype) !== null)) {
    throw invalid(who, 'options', 'an object', options);
  }
  for (const name of Object.keys(options)) {
    if (known.includes(name)) continue;
    throw badOption(`${who}: unknown option "${name}", expected ${oneOf(known)}`);
  }
}

export function parseTime(who: string, name: string, value: unknown, least = 1): number {
  const time = typeof value === 'string' && value.trim() !== '' ? ms(value as ms.StringValue) : value;
  if (typeof time === 'number' && time >= least && time <= LONGEST) return time;
  throw invalid(who, name, `${least} to ${LONGEST} ms`, value);
}

export function parseSize(who: string, name: string, value: unknown): number {
  const readable = typeof value !== 'string' || /^\d+(\.\d+)? *([kmgtp]?b)?$/i.test(value);
  const size = typeof value === 'string' ? bytes.parse(value) : value;
  if (readable && typeof size === 'number' && size >= 0 && size <= Number.MAX_SAFE_INTEGER) return size;
  throw invalid(who, name, 'a number of bytes such as 1024 or "100kb"', value);
}

export function parseInteger(who: string, name: string, value: unknown, least: number): number {
  if (Number.isSafeInteger(value) && (value as number) >= least) return value as number;
  throw invalid(who, name, `an integer of ${least} or more`, value);
}

export function parseFunction<F>(who: string, name: string, value: F): F {
  if (typeof value === 'function') return value;
  throw invalid(who, name, 'a function', value);
}

export function parseChoice<const T extends string | boolean>(
  who: string,
  name: string,
  value: unknown,
  choices: readonly T[],
): T {
  if (choices.includes(value as T)) return value as T;
  throw invalid(who, name, oneOf(choices.map(show)), value);
}

function oneOf(names: readonly string[]): string {
  return names.length > 1 ? `${names.slice(0, -1).join(', ')} or ${names.at(-1)}` : String(names[0]);
}

function show(value: unknown): string {
  if (typeof value === 'string') return JSON.stringify(value);
  if (typeof value === 'function') return `the function ${value.name || '(anonymous)'}`;
  if (Array.isArray(value)) return 'an array';
  if (value instanceof URL) return JSON.stringify(value.href);
  if (typeof value === 'object' && value !== null) return 'an object';
  return typeof value === 'bigint' ? `${value}n` : String(value);
}
