import { readFileSync } from 'node:fs';
import { runInNewContext } from 'node:vm';
import { type Node, type Program, parse } from 'acorn';
import { analyze } from 'eslint-scope';
import { notSelfContained } from '../errors';
import { OF_MODULES, PROVIDED } from '../worker/provided';
import type { Caller } from './caller';
import { type Scope, scopesOf } from './scopes';

/** The text of a function, and whether it reads as an expression or only as a method inside of an object. */
export interface Source {
  readonly source: string;
  readonly form: 'expression' | 'method';
  readonly strict: boolean;
  /** Declares what compilers have put beside the function, and it uses. */
  readonly helpers: string;
}

const WAY_OUT =
  'It runs from its source text in another process: hand what it needs to it as arguments, ' +
  'use await import() inside it, or move it to a file of its own and use offload.module()';

/** For names that tell what has become of the function. */
const WAYS_OUT: readonly (readonly [RegExp, string])[] = [
  [/^this$/, 'An arrow function has no "this" of its own: write it as a function'],
  [
    /^__(webpack|nccwpck)_require__$/,
    'The bundler has put an import() of it into the bundle: write import(/* webpackIgnore: true */ …)',
  ],
  [/^((init|require)_\w+|\w+_exports)$/, 'Where a bundler has put an import() into the bundle, mark it as external'],
];

/**
 * Takes a function's text, and checks that it stands on its own. It most likely is in strict mode where its caller is.
 *
 * @throws TypeError `ERR_UNBLOCK_NOT_SELF_CONTAINED`, with the name of what is wrong and the way out
 */
export function sourceOf(fn: (...args: never[]) => unknown, { file, strict }: Caller): Source {
  const refuse = (problem: string) => notSelfContained(fn.name || 'the function', problem);
  const source = Function.prototype.toString.call(fn);
  if (NATIVE.test(source)) throw refuse(`is native or bound, and has no source text. ${WAY_OUT}`);

  const text = read(source);
  if (text instanceof Error) throw refuse(`cannot be read on its own: ${text.message}. ${WAY_OUT}`);
  const { root, form, kind } = text;
  if (root.type === 'ClassExpression') throw refuse('is a class: offload a function that uses it instead');
  if (kind === 'get' || kind === 'set') throw refuse(`is a ${kind}ter: offload a function or a method instead`);
  if (root.generator) throw refuse('is a generator, whose steps cannot be sent: return an array instead');
  const helpers = new Map<string, string>();
  const outside = namesOutside(fn, text, helpers, (name) => name.startsWith('_'));
  const counter = outside.find((name) => name.startsWith('cov_'));
  if (counter !== undefined) {
    throw refuse(`has the coverage counter "${counter}" in it: write /* istanbul ignore next */ before it. ${WAY_OUT}`);
  }
  if (outside.length > 0) {
    const names = outside.map((name) => nameInFile(name, root, file));
    const list = names.map((name) => `"${name}"`).join(', ');
    throw refuse(`uses ${list} from outside of itself. ${hidden(names)}${wayOutFor(fn.name, names)}`);
  }
  return { source, form, strict: isStrict(fn, root, strict), helpers: declarationsOf(helpers) };
}

/** Those of swc are called by their name or as its property `_`. */
function declarationsOf(helpers: Map<string, string>): string {
  const texts = [...helpers].map(([name, value]) => {
    const isNative = !value.startsWith('(');
    return `var ${name} = ${value};${isNative ? '' : ` ${name}._ = ${name};`}`;
  });
  return texts.join(' ');
}

const NATIVE = /\{\s*\[native code\]\s*\}\s*$/;

function hidden(outside: string[]): string {
  const names = outside.filter((name) => globalsOfWorker().has(name)).map((name) => `"${name}"`);
  return names.length > 0 ? `Its file has a ${names.join(', ')} of its own, which hides the global. ` : '';
}

function wayOutFor(ownName: string, outside: string[]): string {
  if (outside.includes(ownName)) return `To call itself, it needs a name in its own text: function ${ownName}() { … }`;
  const [, wayOut] = WAYS_OUT.find(([pattern]) => outside.some((name) => pattern.test(name))) ?? [];
  const ofCompiler = outside.find((name) => /^__?[a-z]/.test(name));
  const newer = `. If "${ofCompiler}" is a helper of your compiler, choose a newer target, such as ES2022`;
  return wayOut ?? (ofCompiler === undefined ? WAY_OUT : WAY_OUT + newer);
}

/** What the source code calls it: compilers make members of objects that they name of what a file imports. */
function nameInFile(name: string, root: Syntax, file: string): string {
  if (name === '__vite_ssr_import_meta__') return 'import.meta';
  const uses = [...within(root, () => true)].filter(({ object }) => object?.name === name);
  const imported = new Set(uses.map(({ computed, property }) => (computed ? 'default' : property?.name)));
  const isTold = imported.size > 0 && !imported.has('default') && !isWrittenIn(file, name);
  return isTold ? [...imported].join('", "') : name;
}

function isWrittenIn(file: string, name: string): boolean {
  try {
    return readFileSync(file, 'utf8').includes(name);
  } catch {
    return true; // For all that can be told.
  }
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
  readonly object?: Syntax;
  readonly property?: Syntax;
  readonly computed?: boolean;
}

interface Text {
  readonly program: Program;
  readonly root: Syntax;
  readonly form: Source['form'];
  readonly kind: string | undefined;
}

function read(source: string): Text | SyntaxError {
  const expression = tryParse(`(${source}\n)`);
  const program = expression instanceof Error ? tryParse(`({${source}\n})`) : expression;
  if (program instanceof Error) {
    // It is the one or the other: the reading that got further says what is wrong.
    return [expression as ParseError, program].sort((a, b) => b.pos - a.pos)[0] as ParseError;
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

/**
 * Every name that would not resolve in a worker to what it is here, once. Helpers of compilers are taken along.
 *
 * @param mayBeHelper which names may be those of helpers
 */
function namesOutside(
  fn: object,
  { program, root }: Text,
  helpers: Map<string, string>,
  mayBeHelper: (name: string) => boolean,
): string[] {
  const used = namesUsed(program);
  const asked = namesAskedFor(root);
  const known = globalsOfWorker();
  const scopes = used.length > 0 ? (scopesOf(fn) ?? []) : [];
  const outside = used.filter((name) => {
    if (OF_MODULES.includes(name)) return false;
    const scope = scopes.find((variables) => Object.hasOwn(variables, name));
    if (scope === undefined) return !known.has(name) && !asked.has(name);
    const value = valueIn(scope, name);
    // Imported from the module that it is a global of, or handed in by a test runner.
    if (value !== undefined && known.has(name) && value === Reflect.get(globalThis, name)) return false;
    return !(mayBeHelper(name) && takeAlong(name, value, helpers)) && !PROVIDED.includes(name);
  });
  return [...inheritedBy(root), ...outside];
}

function namesUsed(program: Program): string[] {
  const scopes = analyze(program as never, { ecmaVersion: 2022, sourceType: 'script', ignoreEval: true });
  return [...new Set((scopes.globalScope?.through ?? []).map(({ identifier }) => identifier.name as string))];
}

function namesAskedFor(root: Syntax): Set<string> {
  const asked = [...within(root, () => true)]
    .filter(({ type, operator }) => type === 'UnaryExpression' && operator === 'typeof')
    .map(({ argument }) => argument?.name ?? '');
  return new Set(asked.filter((name) => MAYBE_GLOBAL.test(name)));
}

function inheritedBy(root: Syntax): Set<string> {
  const inherited = new Set<string>();
  for (const { type } of within(root, keepsThis)) {
    if (type === 'Super') inherited.add('super');
    if (type === 'ThisExpression' && root.type === 'ArrowFunctionExpression') inherited.add('this');
  }
  return inherited;
}

/** `undefined` where it has no value yet. */
function valueIn(scope: Scope, name: string): unknown {
  try {
    return scope[name];
  } catch {
    return undefined;
  }
}

/** A helper is a function that needs nothing but globals and other helpers. */
function takeAlong(name: string, value: unknown, helpers: Map<string, string>): boolean {
  // A module of swc's has its helper as `_`.
  const helper = typeof value === 'object' && value !== null ? Reflect.get(value, '_') : value;
  if (typeof helper !== 'function') return false;
  const native = pathOfNative(helper);
  const text = native ?? (isPlain(helper) ? expressionOf(helper) : undefined);
  if (text === undefined) return false;
  if (helpers.has(name)) return helpers.get(name) === text;
  helpers.set(name, text);
  const source = native ?? read(Function.prototype.toString.call(helper));
  if (typeof source === 'string') return true;
  if ('root' in source && namesOutside(helper, source, helpers, () => true).length === 0) return true;
  helpers.delete(name);
  return false;
}

/** Nothing was hung on it, which its text would not show. */
function isPlain(fn: { prototype?: object }): boolean {
  const extras = Object.keys(fn).filter((key) => key !== '_');
  return extras.length === 0 && Reflect.ownKeys(fn.prototype ?? {}).length <= 1;
}

function expressionOf(fn: object): string {
  const source = Function.prototype.toString.call(fn);
  const [, name] = /^(?:async )?function *\*? *([\w$]+)/.exec(source) ?? [];
  // Some replace themselves, which only a declaration lets them.
  return name === undefined ? `(${source})` : `(() => { ${source} return ${name}; })()`;
}

/** Compilers keep some functions of the language by a name of their own. */
function pathOfNative(value: object): string | undefined {
  const { name } = value as { name: string };
  const isAt = (holder: object) => name !== '' && Object.hasOwn(holder, name) && Reflect.get(holder, name) === value;
  if (isAt(Object)) return `Object.${name}`;
  if (isAt(Reflect)) return `Reflect.${name}`;
  if (isAt(Math)) return `Math.${name}`;
  return isAt(Object.prototype) ? `Object.prototype.${name}` : undefined;
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
