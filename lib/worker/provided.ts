import path from 'node:path';
import * as tslib from 'tslib';

/**
 * What a function's text may use beside globals: what CommonJS has, and the helpers that compilers put beside it. With
 * these, `await import('x')` works in code that TypeScript, swc, esbuild or tsx compiled to CommonJS, and async code in
 * what they compiled for older targets.
 */
export function provide(file: string, require: NodeJS.Require): Record<string, unknown> {
  return { ...HELPERS, require, __filename: file, __dirname: path.dirname(file) };
}

type Steps = (...args: unknown[]) => Generator;

const HELPERS: Record<string, unknown> = {
  ...Object.fromEntries(Object.entries(tslib).filter(([name]) => name.startsWith('__'))),
  tslib_1: tslib,
  __name: (named: unknown) => named,
  __async: (self: unknown, args: unknown[] | null, steps: Steps) => tslib.__awaiter(self, args ?? [], Promise, steps),
  _async_to_generator: asProperty(asyncOf),
  __toESM: namespaceOf,
  _interop_require_wildcard: asProperty(namespaceOf),
  _interop_require_default: asProperty(defaultOf),
  _interopRequireWildcard: namespaceOf,
  _interopRequireDefault: defaultOf,
};

export const PROVIDED = ['require', '__filename', '__dirname', ...Object.keys(HELPERS)];

/** swc calls its helpers as a property of themselves. */
function asProperty<F extends object>(helper: F) {
  return Object.assign(helper, { _: helper });
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
