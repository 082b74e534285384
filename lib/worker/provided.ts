import { existsSync } from 'node:fs';
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import type * as Tslib from 'tslib';

const tslib = loadTslib();

/** It makes globals of its helpers as well, which an app's check for leaks would find. */
function loadTslib(): typeof Tslib {
  const before = new Set(Object.getOwnPropertyNames(globalThis));
  const helpers: typeof Tslib = require('tslib');
  for (const name of Object.keys(helpers)) if (!before.has(name)) Reflect.deleteProperty(globalThis, name);
  return helpers;
}

/**
 * What a function's text may use beside globals: what CommonJS has, and the helpers that compilers put beside it. With
 * these, `await import('x')` works in code that TypeScript, swc, esbuild or tsx compiled to CommonJS, and async code in
 * what they compiled for older targets.
 */
export function provide(file: string, require: NodeJS.Require): Record<string, unknown> {
  const __unblock_resolve = (id: string) => fromVite(id, path.dirname(file));
  return { ...HELPERS, __unblock_resolve, require, __filename: file, __dirname: path.dirname(file) };
}

/** Vite names files by their path from its root, and those outside of that by `/@fs` and their path. */
function fromVite(id: string, from: string): string {
  if (!id.startsWith('/')) return id;
  if (id.startsWith('/@fs/')) return pathToFileURL(id.slice('/@fs'.length)).href;
  const file = path.join(from, id);
  if (existsSync(file)) return pathToFileURL(file).href;
  return from === path.dirname(from) ? id : fromVite(id, path.dirname(from));
}

type Steps = (...args: unknown[]) => Generator;

const HELPERS: Record<string, unknown> = {
  ...Object.fromEntries(Object.entries(tslib).filter(([name]) => name.startsWith('__'))),
  tslib_1: tslib,
  // esbuild
  __async: (self: unknown, args: unknown[] | null, steps: Steps) => tslib.__awaiter(self, args ?? [], Promise, steps),
  __forAwait: tslib.__asyncValues,
  __name: (named: unknown) => named,
  __objRest: tslib.__rest,
  __pow: Math.pow,
  __spreadProps: withProperties,
  __spreadValues: tslib.__assign,
  __toESM: namespaceOf,
  // swc
  _async_iterator: asProperty(tslib.__asyncValues),
  _async_to_generator: asProperty(asyncOf),
  _interop_require_default: asProperty(defaultOf),
  _interop_require_wildcard: asProperty(namespaceOf),
  _object_spread: asProperty(tslib.__assign),
  _object_spread_props: asProperty(withProperties),
  _object_without_properties: asProperty(tslib.__rest),
  _sliced_to_array: asProperty(tslib.__read),
  _to_array: asProperty(tslib.__read),
  _to_consumable_array: asProperty(tslib.__read),
  _ts_generator: asProperty(tslib.__generator),
  _ts_values: asProperty(tslib.__values),
  // Babel
  _interopRequireDefault: defaultOf,
  _interopRequireWildcard: namespaceOf,
};

/** What module systems hand to a file as their own: Node's, and Vite's for `import()`. */
export const OF_MODULES = ['require', '__filename', '__dirname', '__vite_ssr_dynamic_import__'];
export const PROVIDED = [...OF_MODULES, '__unblock_resolve', ...Object.keys(HELPERS)];
/** swc calls its helpers by their name, or those of a module of each as its property `_`. */
function asProperty(helper: (...args: any[]) => unknown) {
  return Object.assign(helper.bind(undefined), { _: helper });
}

function withProperties(object: object, more: object) {
  return Object.defineProperties(object, Object.getOwnPropertyDescriptors(more));
}

function asyncOf(steps: Steps) {
  return function inSteps(this: unknown, ...args: unknown[]) {
    return tslib.__awaiter(this, args, Promise, steps);
  };
}

/** A module as compilers make it. */
export interface Compiled {
  __esModule?: unknown;
}

function namespaceOf(module: Compiled) {
  return module?.__esModule ? module : { ...module, default: module };
}

function defaultOf(module: Compiled) {
  return module?.__esModule ? module : { default: module };
}
