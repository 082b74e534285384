import v8 from 'node:v8';
import { isErrorLike } from './errors';

/** What the two sides of a worker say to each other, and how values and errors cross between them. */

/** Enough to find and call a task in another process; sent once to each worker. */
export type TaskDefinition =
  | {
      readonly kind: 'function';
      readonly name: string;
      readonly source: string;
      /** A method's text is no expression. */
      readonly form: 'expression' | 'method';
      /** Where it was written: imports are resolved from here, stack traces name it. */
      readonly file: string;
    }
  | { readonly kind: 'module'; readonly name: string; readonly url: string };

/**
 * What a function's text may use beside globals: what CommonJS has, and what compilers put there. With these,
 * `await import('x')` works in code that TypeScript, swc, esbuild or tsx compiled to CommonJS.
 */
export const PROVIDED = [
  'require',
  '__filename',
  '__dirname',
  '__name',
  '__importStar',
  '__importDefault',
  '__toESM',
  '_interop_require_wildcard',
  '_interop_require_default',
  '_interopRequireWildcard',
  '_interopRequireDefault',
] as const;

/** Parameters of the worker's methods, as workerpool calls them. */
export interface WorkerMethods {
  ready(): true;
  run(call: number, task: number, definition: TaskDefinition | undefined, args: Uint8Array): Outcome | Promise<Outcome>;
  /** Tells the task; answers nothing that anyone waits for. */
  abort(call: number, reason: Uint8Array): void;
  /** Waits until no interrupt is on its way; answers how many have landed, of this many sent. */
  settled(interrupts: number): Promise<number | undefined>;
}

/** How a task ended, with the interrupts that have landed in this process so far. */
export interface Outcome {
  readonly ok: boolean;
  readonly body: Uint8Array;
  readonly interrupts: number;
}

/** What a worker tells while a task runs. `listens` says that the task heeds its abort signal. */
export type WorkerEvent =
  | { readonly started: true; readonly listens: boolean }
  | { listens: true }
  | { progress: unknown };

/** Structured clone with Node's additions: `Buffer` and typed arrays arrive as what they are. */
export function pack(value: unknown): Buffer {
  return v8.serialize(value);
}

export function unpack(packed: Uint8Array): unknown {
  return v8.deserialize(packed);
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

const BASES = { Error, EvalError, RangeError, ReferenceError, SyntaxError, TypeError, URIError };

/** Errors that hold each other as their causes end somewhere. */
const DEEPEST = 8;

/** Whatever was thrown: errors with all they carry that can be sent, everything else as it is. */
export function packThrown(thrown: unknown): Buffer {
  try {
    return pack(portable(thrown, 0));
  } catch {
    return pack({ value: `a ${typeof thrown} that cannot be sent between processes` });
  }
}

export function unpackThrown(packed: Uint8Array): unknown {
  return revive(unpack(packed) as Portable);
}

function portable(value: unknown, depth: number): Portable {
  // As AggregateError has them.
  if (Array.isArray(value) && value.some(isErrorLike)) return { list: value.map((item) => portable(item, depth + 1)) };
  if (!isErrorLike(value)) return { value };
  const properties: PackedError['properties'] = {};
  if (depth < DEEPEST) {
    for (const key of new Set([...Object.getOwnPropertyNames(value), 'code'])) {
      if (key === 'message' || key === 'stack' || key === 'name') continue;
      const part = sendable((value as unknown as Record<string, unknown>)[key], depth);
      if (part !== undefined) properties[key] = part;
    }
  }
  const { base, className } = classOf(value);
  // A class that extends Error and sets no name is still known by its own.
  const name = value.name === base ? className : String(value.name);
  return { error: true, base, className, name, message: value.message, stack: value.stack ?? '', properties };
}

function sendable(value: unknown, depth: number): Portable | undefined {
  if (value === undefined) return undefined;
  try {
    const part = portable(value, depth + 1);
    pack(part);
    return part;
  } catch {
    return undefined; // A function, a socket: of no use in another process.
  }
}

function classOf(error: Error): { base: string; className: string } {
  const className = error.constructor?.name || 'Error';
  for (let at = Object.getPrototypeOf(error); at !== null; at = Object.getPrototypeOf(at)) {
    const name = at.constructor?.name;
    if (Object.hasOwn(BASES, name)) return { base: name, className };
  }
  return { base: 'Error', className };
}

function revive(packed: Portable): unknown {
  if ('value' in packed) return packed.value;
  if ('list' in packed) return packed.list.map(revive);
  const error = new (classNamed(packed.className, packed.base))(packed.message);
  hide(error, 'stack', packed.stack);
  if (error.name !== packed.name) hide(error, 'name', packed.name);
  for (const [key, value] of Object.entries(packed.properties)) {
    if (key === 'cause' || key === 'errors') hide(error, key, revive(value));
    else (error as unknown as Record<string, unknown>)[key] = revive(value);
  }
  return error;
}

function hide(error: Error, key: string, value: unknown): void {
  Object.defineProperty(error, key, { value, writable: true, configurable: true });
}

function classNamed(name: string, base: string): ErrorConstructor {
  const Base = BASES[base as keyof typeof BASES] ?? Error;
  return name === base ? (Base as ErrorConstructor) : ({ [name]: class extends Base {} }[name] as ErrorConstructor);
}
