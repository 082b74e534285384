import { createRequire, Module } from 'node:module';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { constants, Script } from 'node:vm';
import { importFailed, noSuchExport } from '../errors';
import type { TaskDefinition } from '../wire';
import type { Compiled } from './provided';

export type TaskFunction = (this: unknown, ...args: unknown[]) => unknown;

type Imported = { readonly exports: Record<string, unknown> } | { readonly error: unknown };
const modules = new Map<string, Imported>();

/** Imports a module, also one that failed before. Its calls get the error. */
export async function importModule(url: string): Promise<boolean> {
  const before = modules.get(url);
  if (before !== undefined && 'exports' in before) return true;
  try {
    modules.set(url, { exports: allExports(await import(url)) });
    return true;
  } catch (error) {
    modules.set(url, { error: importFailed(fileURLToPath(url), error) });
    return false;
  }
}

/** Node detects only some exports of a CommonJS module; its default export has all of them. */
function allExports(namespace: Record<string, unknown>): Record<string, unknown> {
  const common = namespace.default as (Compiled & { default?: unknown }) | undefined;
  const all: Record<string, unknown> = { ...common, ...namespace };
  if (common?.__esModule) all.default = common.default;
  return all;
}

/** The function of a definition, whose module has been imported. */
export function load(definition: TaskDefinition): TaskFunction {
  return definition.kind === 'function' ? compile(definition) : exportOf(definition);
}

function exportOf({ url, name }: TaskDefinition & { kind: 'module' }): TaskFunction {
  const module = modules.get(url) as Imported;
  if ('error' in module) throw module.error;
  const all = module.exports;
  const fn = Object.hasOwn(all, name) ? all[name] : undefined;
  if (typeof fn === 'function') return fn as TaskFunction;
  const exported = Object.keys(all).filter((key) => typeof all[key] === 'function');
  throw noSuchExport(name, path.basename(fileURLToPath(url)), exported);
}

/** Part of the function's script, since `import()` resolves from the file of the script that contains it. */
const VITE = 'var __vite_ssr_dynamic_import__ = (id) => import(__unblock_resolve(id));';

function compile(definition: TaskDefinition & { kind: 'function' }): TaskFunction {
  const { PROVIDED, provide } = require('./provided') as typeof import('./provided'); // Modules do without.
  const { source, form, strict, helpers, file, line, name } = definition;
  const head = `${strict ? "'use strict';" : ''}(function (${PROVIDED.join(', ')}) { ${VITE} ${helpers}\nreturn (\n`;
  // The text of a method is valid only inside an object.
  const value = form === 'expression' ? source : `{ ${source}\n}`;
  const script = new Script(`${head}${value}\n) })`, {
    filename: file,
    lineOffset: line - head.split('\n').length,
    importModuleDynamically: constants.USE_MAIN_CONTEXT_DEFAULT_LOADER,
  });
  const make = script.runInThisContext() as (...provided: unknown[]) => unknown;

  const provided = provide(file, createRequire(file));
  const made = make(...PROVIDED.map((name) => provided[name]));
  const fn = (form === 'expression' ? made : onlyMemberOf(made as object)) as TaskFunction;
  Object.defineProperty(fn, 'name', { value: name, configurable: true });
  return fn;
}

function onlyMemberOf(object: object): unknown {
  const [key] = Reflect.ownKeys(object);
  return Reflect.get(object, key as PropertyKey);
}

let loading = 0;

/**
 * A task was interrupted while it loaded a module, which leaves a half-loaded one to the calls after it. An interrupted
 * function does not run its `finally`, so the count stays above 0.
 */
export function isSpoiled(): boolean {
  return loading > 0;
}

/** Counts every `require()`, and every use of a global that Node loads on first use, such as `performance`. */
export function watchLoading(): void {
  const { prototype } = Module;
  prototype.require = counted(prototype.require);
  for (const [name, property] of Object.entries(Object.getOwnPropertyDescriptors(globalThis))) {
    if (property.get === undefined || !property.configurable || IN_USE.has(name)) continue;
    Object.defineProperty(globalThis, name, { ...property, get: counted(property.get) });
  }
}

/** Loaded long before, and read often. */
const IN_USE = new Set(['process', 'Buffer']);

function counted<F extends (...args: any[]) => any>(load: F): F {
  return function counted(this: unknown, ...args: unknown[]) {
    loading++;
    try {
      return load.apply(this, args);
    } finally {
      loading--;
    }
  } as F;
}
