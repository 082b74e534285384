import { runInNewContext } from 'node:vm';
import { type Node, type Program, parse } from 'acorn';
import { analyze } from 'eslint-scope';
import { notSelfContained } from '../errors';
import { PROVIDED } from '../worker/provided';

/** The text of a function, and whether it reads as an expression or only as a method inside of an object. */
export interface Source {
  readonly source: string;
  readonly form: 'expression' | 'method';
  readonly strict: boolean;
}

const WAY_OUT =
  'It runs from its source text in another process: hand what it needs to it as arguments, ' +
  'use await import() inside it, or move it to a file of its own and use offload.module()';

/**
 * Takes a function's text, and checks that it stands on its own.
 *
 * @param strict whether the code that hands it over is in strict mode, as it then most likely was itself
 * @throws TypeError `ERR_UNBLOCK_NOT_SELF_CONTAINED`, with the name of what is wrong and the way out
 */
export function sourceOf(fn: (...args: never[]) => unknown, strict: boolean): Source {
  const refuse = (problem: string) => notSelfContained(fn.name || 'the function', problem);
  const source = Function.prototype.toString.call(fn);
  if (/\{\s*\[native code\]\s*\}\s*$/.test(source))
    throw refuse(`is native or bound, and has no source text. ${WAY_OUT}`);

  const { program, root, form, kind } = read(source, refuse);
  if (root.type === 'ClassExpression') throw refuse('is a class: offload a function that uses it instead');
  if (kind === 'get' || kind === 'set') throw refuse(`is a ${kind}ter: offload a function or a method instead`);
  if (root.generator) throw refuse('is a generator, whose steps cannot be sent: return an array instead');
  const outside = namesOutside(program, root);
  const counter = outside.find((name) => name.startsWith('cov_'));
  if (counter !== undefined) {
    throw refuse(`has the coverage counter "${counter}" in it: write /* istanbul ignore next */ before it. ${WAY_OUT}`);
  }
  if (outside.length > 0) {
    const list = outside.map((name) => `"${name}"`).join(', ');
    throw refuse(`uses ${list} from outside of itself. ${wayOutFor(fn.name, outside)}`);
  }
  return { source, form, strict: isStrict(fn, root, strict) };
}

function wayOutFor(ownName: string, outside: string[]): string {
  if (outside.includes('this')) return 'An arrow function has no "this" of its own: write it as a function';
  if (outside.includes(ownName)) return `To call itself, it needs a name in its own text: function ${ownName}() { … }`;
  return WAY_OUT;
}

/** Of a plain function JavaScript tells: one of strict mode keeps its `caller` to itself. */
function isStrict(fn: object, { type, async }: Syntax, otherwise: boolean): boolean {
  if (type !== 'FunctionExpression' || async || !Object.hasOwn(fn, 'prototype')) return otherwise;
  try {
    return Reflect.get(fn, 'caller') === undefined;
  } catch {
    return true;
  }
}

/** The parts of a syntax tree that matter here. */
interface Syntax extends Node {
  readonly generator?: boolean;
  readonly async?: boolean;
  readonly operator?: string;
  readonly argument?: Syntax;
  readonly name?: string;
  readonly expression?: Syntax;
  readonly properties?: Syntax[];
  readonly kind?: string;
  readonly value?: Syntax;
  readonly body?: Syntax[];
}

function read(source: string, refuse: (problem: string) => TypeError) {
  const expression = tryParse(`(${source}\n)`);
  const program = expression instanceof Error ? tryParse(`({${source}\n})`) : expression;
  if (program instanceof Error) {
    // It is the one or the other: the reading that got further says what is wrong.
    const { message } = [expression as ParseError, program].sort((a, b) => b.pos - a.pos)[0] as ParseError;
    throw refuse(`cannot be read on its own: ${message}. ${WAY_OUT}`);
  }
  const form: Source['form'] = program === expression ? 'expression' : 'method';
  const value = (program.body[0] as unknown as Syntax).expression as Syntax;
  const method = form === 'method' ? value.properties?.[0] : undefined;
  return { program, root: method?.value ?? value, form, kind: method?.kind };
}

type ParseError = SyntaxError & { pos: number };

function tryParse(text: string): Program | ParseError {
  try {
    return parse(text, { ecmaVersion: 'latest', ranges: true });
  } catch (error) {
    return error as ParseError;
  }
}

/** Every name that would not resolve in a worker, once. */
function namesOutside(program: Program, root: Syntax): string[] {
  const scopes = analyze(program as never, { ecmaVersion: 2022, sourceType: 'script', ignoreEval: true });
  const used = (scopes.globalScope?.through ?? []).map(({ identifier }) => identifier.name as string);
  const known = globalsOfWorker();
  const asked = new Set<string | undefined>();
  const inherited = new Set<string>();
  for (const node of within(root, () => true)) {
    const name = node.type === 'UnaryExpression' && node.operator === 'typeof' ? node.argument?.name : undefined;
    if (name !== undefined && MAYBE_GLOBAL.test(name)) asked.add(name);
  }
  for (const { type } of within(root, keepsThis)) {
    if (type === 'Super') inherited.add('super');
    if (type === 'ThisExpression' && root.type === 'ArrowFunctionExpression') inherited.add('this');
  }
  return [...inherited, ...new Set(used.filter((name) => !known.has(name) && !asked.has(name)))];
}

/** An arrow function has the `this` and `super` of what surrounds it; other functions and classes have their own. */
function keepsThis({ type }: Syntax): boolean {
  return type !== 'FunctionExpression' && type !== 'FunctionDeclaration' && type !== 'ClassBody';
}

function* within(node: Syntax, enter: (node: Syntax) => boolean): Generator<Syntax> {
  yield node;
  for (const part of Object.values(node).flat()) {
    if (typeof part?.type === 'string' && enter(part)) yield* within(part, enter);
  }
}

let known: Set<string> | undefined;

/** The language's globals as this Node has them, whatever this process has added, and Node's own. */
function globalsOfWorker(): Set<string> {
  known ??= new Set([
    ...runInNewContext('Object.getOwnPropertyNames(globalThis)'),
    ...NODE_GLOBALS.filter((name) => Object.hasOwn(globalThis, name)),
    ...PROVIDED,
  ]);
  return known;
}

/**
 * `typeof window === 'undefined'` asks whether a name exists, and guards the other uses of it: classes of other
 * environments, and what code that runs in many of them asks for.
 */
const MAYBE_GLOBAL =
  /^([A-Z].*|window|self|document|navigator|(local|session)Storage|define|module|exports|importScripts|__webpack_\w+)$/;

const NODE_GLOBALS =
  `AbortController AbortSignal Blob BroadcastChannel Buffer ByteLengthQueuingStrategy CloseEvent CompressionStream
  CountQueuingStrategy Crypto CryptoKey CustomEvent DOMException DecompressionStream ErrorEvent Event EventSource
  EventTarget File FormData Headers MessageChannel MessageEvent MessagePort Navigator Performance PerformanceEntry
  PerformanceMark PerformanceMeasure PerformanceObserver PerformanceObserverEntryList PerformanceResourceTiming
  QuotaExceededError ReadableByteStreamController ReadableStream ReadableStreamBYOBReader ReadableStreamBYOBRequest
  ReadableStreamDefaultController ReadableStreamDefaultReader Request Response SubtleCrypto TextDecoder
  TextDecoderStream TextEncoder TextEncoderStream TransformStream TransformStreamDefaultController URL URLPattern
  URLSearchParams WebSocket WritableStream WritableStreamDefaultController WritableStreamDefaultWriter atob btoa
  clearImmediate clearInterval clearTimeout console crypto fetch global navigator performance process
  queueMicrotask setImmediate setInterval setTimeout structuredClone`.split(/\s+/);
