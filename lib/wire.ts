import v8 from 'node:v8';
import { isErrorLike, notSerializable } from './errors';

/** The messages between a pool and its workers, and how values and errors cross between them. */

/** All that a worker needs to find and call a task. It is sent to each worker once. */
export type TaskDefinition =
  | {
      readonly kind: 'function';
      readonly name: string;
      readonly source: string;
      /** The text of a method is not an expression. */
      readonly form: 'expression' | 'method';
      readonly strict: boolean;
      /** Declarations of the compilers' helpers that it uses. */
      readonly helpers: string;
      /** Where it was written: imports are resolved from here, stack traces name it. */
      readonly file: string;
      readonly line: number;
    }
  | { readonly kind: 'module'; readonly name: string; readonly url: string };

/** Both sides forget all definitions when a worker has this many, since clients may choose names and texts. */
export const MOST_TASKS = 1000;

/** Parameters of the worker's methods, as workerpool calls them. */
export interface WorkerMethods {
  /** Imports modules, one after the other; answers which it could. */
  load(urls: readonly string[]): Promise<string[]>;
  /**
   * @param definition sent with the first call of a task
   * @param careful an interrupt of an earlier call may still be on its way
   */
  run(
    call: number,
    task: number,
    definition: TaskDefinition | undefined,
    args: Parcel,
    reclaim: 'interrupt' | 'kill',
    careful: boolean,
  ): Outcome | Promise<Outcome>;
  /** Tells the task. Nobody waits for the answer. */
  abort(call: number, reason: Uint8Array): void;
}

/** What a worker notes before it begins a call, or the import of a module. A call's number is above 0. */
export const NOTES = {
  nothing: 0,
  importOf: (index: number) => -1 - index,
  indexOfImport: (note = 0) => (note < 0 ? -1 - note : undefined),
};

/** How a task ended. */
export interface Outcome {
  readonly ok: boolean;
  readonly body: Parcel;
  /** It was interrupted where that leaves the process unfit for others. */
  readonly spoiled?: boolean;
}

/** What a worker tells while a task runs; `listens` once the task looks at its abort signal. */
export type WorkerEvent = { readonly call: number } & ({ readonly listens: true } | { readonly progress: unknown });

/** A value on its way: packed, or as it is where sending it cannot fail and packing it would copy it once more. */
export type Parcel = Uint8Array | { readonly plain: unknown };

export function wrap(value: unknown): Parcel {
  return isPlain(value) || isPlainList(value) ? { plain: value } : pack(value);
}

export function unwrap(parcel: Parcel): unknown {
  return 'plain' in parcel ? parcel.plain : unpack(parcel);
}

function isPlain(value: unknown): boolean {
  const type = typeof value;
  return value === null || (type !== 'object' && type !== 'function' && type !== 'symbol');
}

/** Arrays may have holes and properties of their own, and long ones are cheaper to pack than to look through. */
function isPlainList(value: unknown): boolean {
  return (
    Array.isArray(value) && value.length < 100 && value.every(isPlain) && Object.keys(value).length === value.length
  );
}

/** Structured clone with Node's additions: `Buffer` and typed arrays arrive as what they are. */
function pack(value: unknown): Buffer {
  return v8.serialize(value);
}

function unpack(packed: Uint8Array): unknown {
  const deserializer = new Deserializer(packed);
  deserializer.readHeader();
  return deserializer.readValue();
}

/** To Node's a view is a window into the message, or into memory that it shares with others. A clone has its own. */
class Deserializer extends v8.DefaultDeserializer {
  /** Documented as to be overridden, and missing in the types. */
  _readHostObject(): ArrayBufferView {
    const inherited = v8.DefaultDeserializer.prototype as unknown as { _readHostObject(): ArrayBufferView };
    const view = inherited._readHostObject.call(this);
    if (Buffer.isBuffer(view)) return view;
    const { buffer, byteOffset, byteLength } = view;
    const View = view.constructor as new (buffer: ArrayBufferLike) => ArrayBufferView;
    return new View(buffer.slice(byteOffset, byteOffset + byteLength));
  }
}

type Portable = PackedError | { readonly list: Portable[] } | { readonly value: unknown };

interface PackedError {
  readonly error: true;
  readonly base: string;
  readonly className: string;
  readonly name: string;
  readonly message: string;
  readonly stack: string;
  readonly properties: Record<string, Portable>;
}

const BASES = { Error, AggregateError, EvalError, RangeError, ReferenceError, SyntaxError, TypeError, URIError };

/** What Express reads off an error, which its class may have instead. */
const READ_BY_EXPRESS = ['code', 'status', 'statusCode', 'expose', 'headers'];

/** Whatever was thrown: errors with all they carry that can be sent, everything else as it is. */
export function packThrown(thrown: unknown): Uint8Array {
  for (const form of [portable, textOnly]) {
    try {
      return pack(form(thrown, new Map()));
    } catch {
      // The next form asks for less.
    }
  }
  return packThrown(notSerializable('The error', 'a task', `it is of type ${typeof thrown}`));
}

/** An error that throws when it is looked at, or cannot be sent for another reason, still has its text. */
function textOnly(thrown: unknown): PackedError {
  const read = (key: string): string | undefined => {
    try {
      const text = Reflect.get(thrown as object, key);
      return typeof text === 'string' ? text : undefined;
    } catch {
      return undefined;
    }
  };
  const message = read('message');
  if (message === undefined) throw new TypeError('This is no error');
  const name = read('name') ?? 'Error';
  const stack = read('stack') ?? `${name}: ${message}`;
  return { error: true, base: 'Error', className: 'Error', name, message, stack, properties: {} };
}

export function unpackThrown(packed: Parcel): unknown {
  return revive(unwrap(packed) as Portable, new Map());
}

/** A chain of causes may be longer than a stack is deep. */
const DEEPEST = 100;

/** Errors that hold each other, as causes do, are each packed once. */
function portable(value: unknown, packed: Map<Error, PackedError>, depth = 0): Portable {
  if (depth > DEEPEST) throw new RangeError('An error is the cause of too many others');
  if (isErrorLike(value)) return packed.get(value) ?? packError(value, packed, depth);
  // As AggregateError has them.
  if (Array.isArray(value) && value.some(isErrorLike))
    return { list: value.map((item) => portable(item, packed, depth + 1)) };
  pack(value);
  return { value };
}

function packError(error: Error, packed: Map<Error, PackedError>, depth: number): PackedError {
  const { message, stack = '' } = error;
  const { base, className } = classOf(error);
  // A class that extends Error and sets no name is still known by its own.
  const name = error.name === base ? className : String(error.name);
  const properties: PackedError['properties'] = {};
  const result: PackedError = { error: true, base, className, name, message, stack, properties };
  packed.set(error, result);
  for (const key of new Set([...Object.getOwnPropertyNames(error), ...READ_BY_EXPRESS])) {
    if (key === 'message' || key === 'stack' || key === 'name') continue;
    try {
      const value = (error as unknown as Record<string, unknown>)[key];
      if (value !== undefined) properties[key] = portable(value, packed, depth + 1);
    } catch {
      // A function, a socket, a getter that throws: of no use in another process.
    }
  }
  return result;
}

function classOf(error: Error): { base: string; className: string } {
  const className = String(error.constructor?.name || 'Error');
  for (let at = Object.getPrototypeOf(error); at !== null; at = Object.getPrototypeOf(at)) {
    const name = at.constructor?.name;
    if (Object.hasOwn(BASES, name)) return { base: name, className };
  }
  return { base: 'Error', className };
}

function revive(packed: Portable, revived: Map<PackedError, Error>): unknown {
  if ('value' in packed) return packed.value;
  if ('list' in packed) return packed.list.map((item) => revive(item, revived));
  const known = revived.get(packed);
  if (known !== undefined) return known;
  const Class = classNamed(packed.className, packed.base);
  const error = packed.base === 'AggregateError' ? new Class([], packed.message) : new Class(packed.message);
  revived.set(packed, error);
  const define = (key: string, value: unknown, enumerable: boolean) =>
    Object.defineProperty(error, key, { value, enumerable, writable: true, configurable: true });
  define('stack', packed.stack, false);
  if (error.name !== packed.name) define('name', packed.name, false);
  for (const [key, value] of Object.entries(packed.properties)) {
    define(key, revive(value, revived), key !== 'cause' && key !== 'errors');
  }
  return error;
}

type ErrorClass = new (...args: unknown[]) => Error;

function classNamed(name: string, base: string): ErrorClass {
  const Base = (BASES[base as keyof typeof BASES] ?? Error) as ErrorClass;
  return name === base ? Base : ({ [name]: class extends Base {} }[name] as ErrorClass);
}
