import { runInNewContext } from 'node:vm';
import type { Program } from 'acorn';
import { analyze } from 'eslint-scope';
import { OF_MODULES, PROVIDED } from '../worker/provided';
import { type Scope, scopesOf } from './scopes';
import { read, type Syntax, type Text, within } from './syntax';

/** A name in a function's text that means something else in a worker, or nothing; and its value here. */
export interface Outside {
  readonly name: string;
  readonly value?: unknown;
}

/** Helpers of compilers, by name, as the expressions that make them. */
type Helpers = Map<string, string>;

/** What a function uses that is not its own, and the helpers that can be taken along. */
export function namesOf(fn: object, text: Text): { outside: Outside[]; helpers: Helpers } {
  const helpers: Helpers = new Map();
  const outside = namesOutside(fn, text, helpers, (name) => name.startsWith('_'));
  return { outside: [...inheritedBy(text.root), ...outside], helpers };
}

function namesOutside(
  fn: object,
  { program, root }: Text,
  helpers: Helpers,
  mayBeHelper: (name: string) => boolean,
): Outside[] {
  const used = namesUsed(program).filter((name) => !OF_MODULES.includes(name));
  const asked = namesAskedFor(root);
  const scopes = used.length > 0 ? (scopesOf(fn) ?? []) : [];
  const outside: Outside[] = [];
  for (const name of used) {
    const scope = scopes.find((variables) => Object.hasOwn(variables, name));
    if (scope === undefined) {
      if (!isGlobal(name) && !asked.has(name)) outside.push({ name });
      continue;
    }
    const value = valueIn(scope, name);
    if (isGlobalItself(name, value) || (mayBeHelper(name) && takeAlong(name, value, helpers))) continue;
    if (!PROVIDED.includes(name)) outside.push({ name, value });
  }
  return outside;
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

/** An arrow function has these from the code around it. */
function inheritedBy(root: Syntax): Outside[] {
  const types = new Set([...within(root, keepsThis)].map(({ type }) => type));
  const names = types.has('Super') ? ['super'] : [];
  if (types.has('ThisExpression') && root.type === 'ArrowFunctionExpression') names.push('this');
  return names.map((name) => ({ name }));
}

/** Other functions, and classes, have a `this` and a `super` of their own. */
function keepsThis({ type }: Syntax): boolean {
  return type !== 'FunctionExpression' && type !== 'FunctionDeclaration' && type !== 'ClassBody';
}

/** `undefined` where it has no value yet. */
function valueIn(scope: Scope, name: string): unknown {
  try {
    return scope[name];
  } catch {
    return undefined;
  }
}

/** The same value as the global's: imported from its module, or handed in by a test runner. */
function isGlobalItself(name: string, value: unknown): boolean {
  return value !== undefined && isGlobal(name) && value === Reflect.get(globalThis, name);
}

/** A helper is a function that needs nothing but globals and other helpers. */
function takeAlong(name: string, value: unknown, helpers: Helpers): boolean {
  // A module of swc exports its helper as `_`.
  const helper = typeof value === 'object' && value !== null ? Reflect.get(value, '_') : value;
  if (typeof helper !== 'function') return false;
  const native = pathOfNative(helper);
  const text = native === undefined ? expressionOf(helper) : `function () { return ${native}.apply(this, arguments); }`;
  if (helpers.has(name)) return helpers.get(name) === text;
  const more = new Map(helpers).set(name, text);
  if (native === undefined && !standsAlone(helper, more)) return false;
  for (const [key, expression] of more) helpers.set(key, expression);
  return true;
}

function standsAlone(helper: { prototype?: object }, helpers: Helpers): boolean {
  // Its text does not show properties that were added to it.
  if (Object.keys(helper).some((key) => key !== '_') || Reflect.ownKeys(helper.prototype ?? {}).length > 1)
    return false;
  const text = read(Function.prototype.toString.call(helper));
  return 'root' in text && namesOutside(helper, text, helpers, () => true).length === 0;
}

function expressionOf(fn: object): string {
  const source = Function.prototype.toString.call(fn);
  const [, name] = /^(?:async )?function *\*? *([\w$]+)/.exec(source) ?? [];
  // Some helpers replace themselves, which only a declaration allows.
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

let known: Set<string> | undefined;

/** The language's globals as this Node has them, whatever this process has added, and Node's own. */
export function isGlobal(name: string): boolean {
  known ??= new Set([
    ...runInNewContext('Object.getOwnPropertyNames(globalThis)'),
    ...NODE_GLOBALS.filter((name) => Object.hasOwn(globalThis, name)),
    ...PROVIDED,
  ]);
  return known.has(name);
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
