import { readFileSync } from 'node:fs';
import { notSelfContained } from '../errors';
import type { Caller } from './caller';
import { isGlobal, namesOf, type Outside } from './names';
import { read, type Syntax, type Text, within } from './syntax';

/** The text of a function, and how a worker compiles it. */
export interface Source {
  readonly source: string;
  readonly form: Text['form'];
  readonly strict: boolean;
  /** Declarations of the compilers' helpers that it uses. */
  readonly helpers: string;
}

const WAY_OUT =
  'It runs from its source text in another process: hand what it needs to it as arguments, ' +
  'use await import() inside it, or move it to a file of its own and use offload.module()';

/**
 * Takes a function's text, and checks that it stands on its own. It most likely is in strict mode where its caller is.
 *
 * @throws TypeError `ERR_UNBLOCK_NOT_SELF_CONTAINED`, with the name of what is wrong and the way out
 */
export function sourceOf(fn: (...args: never[]) => unknown, { file, strict }: Caller): Source {
  const refuse = (problem: string) => notSelfContained(fn.name || 'the function', problem);
  const source = Function.prototype.toString.call(fn);
  if (/\{\s*\[native code\]\s*\}\s*$/.test(source))
    throw refuse(`is native or bound, and has no source text. ${WAY_OUT}`);

  const text = read(source);
  if (text instanceof Error) throw refuse(`cannot be read on its own: ${text.message}. ${WAY_OUT}`);
  const { root, form, kind } = text;
  if (root.type === 'ClassExpression') throw refuse('is a class: offload a function that uses it instead');
  if (kind === 'get' || kind === 'set') throw refuse(`is a ${kind}ter: offload a function or a method instead`);
  if (root.generator) throw refuse('is a generator, whose steps cannot be sent: return an array instead');
  const { outside, helpers } = namesOf(fn, text);
  const counter = outside.find(({ name }) => name.startsWith('cov_'));
  if (counter !== undefined) {
    const hint = 'write /* istanbul ignore next */ before it';
    throw refuse(`has the coverage counter "${counter.name}" in it: ${hint}. ${WAY_OUT}`);
  }
  if (outside.length > 0) {
    const names = outside.map((one) => nameInFile(one, root, file));
    const list = names.map((name) => `"${name}"`).join(', ');
    throw refuse(`uses ${list} from outside of itself. ${hidden(names)}${wayOutFor(fn.name, outside, names)}`);
  }
  return { source, form, strict: isStrict(fn, root, strict), helpers: declarationsOf(helpers) };
}

/** Those of swc are called by their name or as its property `_`. */
function declarationsOf(helpers: Map<string, string>): string {
  return [...helpers].map(([name, value]) => `var ${name} = ${value}; ${name}._ = ${name};`).join(' ');
}

function hidden(names: string[]): string {
  const globals = names.filter(isGlobal).map((name) => `"${name}"`);
  return globals.length > 0 ? `Its file has a ${globals.join(', ')} of its own, which hides the global. ` : '';
}

function wayOutFor(ownName: string, outside: Outside[], names: string[]): string {
  const has = (pattern: RegExp) => outside.some(({ name }) => pattern.test(name));
  if (has(/^this$/)) return 'An arrow function has no "this" of its own: write it as a function';
  if (outside.some(({ name }) => name === ownName)) {
    return `To call itself, it needs a name in its own text: function ${ownName}() { … }`;
  }
  if (has(/^__(webpack|nccwpck)_require__$/) || outside.some(({ value }) => isRequireOfWebpack(value))) {
    return 'The bundler has put an import() of it into the bundle: write import(/* webpackIgnore: true */ …)';
  }
  if (has(/^((init|require)_\w+|\w+_exports)$/)) {
    return 'Where a bundler has put an import() into the bundle, mark what it imports as external';
  }
  const helper = names.find((name) => /^__?[a-z]/.test(name));
  if (helper === undefined) return WAY_OUT;
  return `${WAY_OUT}. If "${helper}" is a helper of your compiler, choose a newer target, such as ES2022`;
}

/** Minified, it has another name. */
function isRequireOfWebpack(value: unknown): boolean {
  return typeof value === 'function' && ['d', 'o'].every((key) => typeof Reflect.get(value, key) === 'function');
}

/** What the source code calls it: compilers make members of objects that they name of what a file imports. */
function nameInFile({ name, value }: Outside, root: Syntax, file: string): string {
  if (name === '__vite_ssr_import_meta__') return 'import.meta';
  const isGenerated =
    /^__vite_ssr_import_\d+__$/.test(name) || (typeof value === 'object' && value !== null && !isWrittenIn(file, name));
  const uses = [...within(root, () => true)].filter(({ object }) => object?.name === name);
  const imported = new Set(
    uses.map(({ computed, property }) => (computed ? 'default' : (property?.name ?? 'default'))),
  );
  if (!isGenerated || imported.size === 0 || imported.has('default') || imported.has('_')) return name;
  return [...imported].join('", "');
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
