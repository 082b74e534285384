import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { transformSync as bySwc, type JscTarget } from '@swc/core';
import { transformSync as byEsbuild } from 'esbuild';
import { closePools, offload } from 'express-unblock';
import { fixture, ROOT } from './support/workers';

const { createInstrumenter } = require('istanbul-lib-instrument');

jest.setTimeout(30_000); // Processes start, on however busy a machine.

const folder = mkdtempSync(fixture('compiled-'));
afterAll(() => rmSync(folder, { recursive: true }));
afterAll(() => closePools({ grace: 0 }));

const SOURCE = `
  export const add = (a: number, b = 2) => a + b;
  export const inner = (list: number[]) => {
    const double = (n: number) => n * 2;
    function half(n: number) { return n / 2; }
    return list.map(double).map(half).map(double);
  };
  export const rest = ({ a, ...others }: { a: number }) => ({ ...others, sum: a ?? 1 });
  export async function loads(text: string) {
    const bytes = await import('bytes');
    const { basename } = await import('node:path');
    return [(bytes.default ?? bytes).parse(text), basename('/a/b')];
  }
  export const classes = (n: number) => {
    class Base { static s = 1; #x = n; get x() { return this.#x + Base.s; } }
    return new (class extends Base { y = super.x; })().y;
  };
  export const iterates = async (n: number) => {
    async function* numbers() { yield n; yield n; }
    let sum = 0;
    for await (const one of numbers()) sum += one;
    return sum;
  };
  export const spreads = ({ a, ...others }: any, ...list: number[]) => {
    const [first = 1, ...more] = [...list, ...new Set(list)];
    const raw = (text: TemplateStringsArray, ...values: unknown[]) => text.raw.join('|') + values;
    return { ...others, get sum() { return first + more.length; }, ['power' + a]: a ** 2, raw: raw\`x\${a}y\`, ...null };
  };
  export const inherits = (n: number) => {
    class Base { #x = n; static twice = (value: number) => value * 2; get x() { return this.#x; } set x(v) { this.#x = v; } }
    class Child extends Base { y = 1; constructor() { super(); this.x += this.y; } read() { return Base.twice(super.x); } }
    return [new Child().read(), new Child() instanceof Base, typeof Child];
  };
  export async function waits(list: number[]) {
    let sum = 0;
    for (const [key, value] of new Map(list.map((one) => [one, async () => one]))) {
      try { sum += key + (await value()); } finally { sum += await 1; }
    }
    return sum;
  }`;

function byTsc(target: string, module: string): string {
  const file = path.join(folder, 'source.ts');
  writeFileSync(file, SOURCE);
  const tsc = path.join(ROOT, 'node_modules', 'typescript', 'bin', 'tsc');
  const flags = `--ignoreConfig --noCheck --esModuleInterop --target ${target} --module ${module}`.split(' ');
  execFileSync(process.execPath, [tsc, file, '--moduleResolution', 'bundler', ...flags, '--outDir', folder]);
  return readFileSync(path.join(folder, 'source.js'), 'utf8');
}

const swc = (target: JscTarget, type: 'commonjs' | 'es6' = 'commonjs') =>
  bySwc(SOURCE, { swcrc: false, module: { type }, jsc: { target, parser: { syntax: 'typescript' } } }).code;
const esbuild = (options: object) => byEsbuild(SOURCE, { loader: 'ts', target: 'es2022', ...options }).code;

/** What a module of this text exports; ES modules by way of what turns them into CommonJS with `import()` kept. */
function exportsOf(name: string, code: string): Record<string, (...args: never[]) => unknown> {
  const file = path.join(folder, `${name.replace(/\W+/g, '-')}.cjs`);
  const text = /^export /m.test(code) ? code.replace(/^export \{([^}]*)\};?/m, '').replace(/^export /gm, '') : code;
  const names = ['add', 'inner', 'rest', 'loads', 'classes', 'iterates', 'spreads', 'inherits', 'waits'];
  writeFileSync(file, text === code ? code : `${text}\nmodule.exports = { ${names.join(', ')} };`);
  return require(file);
}

describe('functions compiled by', () => {
  it.each([
    ['tsc to ES2022 CommonJS', () => byTsc('es2022', 'commonjs')],
    ['tsc to ES2015 CommonJS', () => byTsc('es2015', 'commonjs')],
    ['tsc to ES2016 CommonJS', () => byTsc('es2016', 'commonjs')],
    ['tsc to ES2023 modules', () => byTsc('es2023', 'esnext')],
    ['tsc to ESNext modules', () => byTsc('esnext', 'esnext')],
    ['swc to CommonJS', () => swc('es2022', 'commonjs')],
    ['swc to modules', () => swc('esnext', 'es6')],
    ['esbuild to CommonJS', () => esbuild({ format: 'cjs' })],
    ['esbuild that keeps names', () => esbuild({ format: 'cjs', keepNames: true })],
    [
      'esbuild that keeps names without white space, as tsx has it',
      () => esbuild({ format: 'cjs', keepNames: true, minifyWhitespace: true, minifySyntax: true }),
    ],
    ['esbuild that minifies', () => esbuild({ format: 'cjs', minify: true })],
    ['esbuild to ES2018', () => esbuild({ format: 'cjs', target: 'es2018' })],
    ['esbuild to ES2017', () => esbuild({ format: 'cjs', target: 'es2017' })],
    ['esbuild to ES2015', () => esbuild({ format: 'cjs', target: 'es2015', keepNames: true })],
    ['swc to ES2018', () => swc('es2018')],
    ['swc to ES2017', () => swc('es2017')],
    ['swc to ES2015', () => swc('es2015')],
    ['swc to ES5', () => swc('es5')],
  ])('%s may be offloaded', async (name, compile) => {
    const compiled = exportsOf(name, compile());
    const offloaded = (key: string) => offload(compiled[key] as (...all: unknown[]) => unknown);
    const call = (key: string, ...args: unknown[]) => offloaded(key)(...args);
    expect(await call('add', 40)).toBe(42);
    expect(await call('inner', [1, 2])).toEqual([2, 4]);
    expect(await call('rest', { a: 1, b: 2 })).toEqual({ b: 2, sum: 1 });
    expect(await call('loads', '1kb')).toEqual([1024, 'b']);
    expect(await call('classes', 41)).toBe(42);
    expect(await call('spreads', { a: 3, b: 4 }, 5, 6)).toEqual({ b: 4, sum: 8, power3: 9, raw: 'x|y3' });
    expect(await call('inherits', 20)).toEqual([42, true, 'function']);
    expect(await call('waits', [1, 2])).toBe(8);
    // What swc makes of an async generator has a prototype that no text shows.
    if (/^swc to ES(5|2015|2017)$/.test(name))
      expect(() => offloaded('iterates')).toThrow(/choose a newer target, such as ES2022$/);
    else expect(await call('iterates', 21)).toBe(42);
  });

  it.each([
    ['esbuild to ES2016', (code: string) => byEsbuild(code, { target: 'es2016', format: 'cjs' }).code],
    [
      'swc to ES2015',
      (code: string) => bySwc(code, { swcrc: false, module: { type: 'commonjs' }, jsc: { target: 'es2015' } }).code,
    ],
  ])('%s may be offloaded when they are async', async (name, compile) => {
    const { twice } = exportsOf(
      `${name}, async`,
      compile('exports.twice = async (n) => { const two = await Promise.resolve(2); return n * two; };'),
    );
    expect(await offload(twice as unknown as (n: number) => Promise<number>)(21)).toBe(42);
  });

  it('istanbul are refused with the way out, and pass where they are left out of coverage', async () => {
    const instrument = (text: string) => createInstrumenter().instrumentSync(text, 'covered.js');
    const covered = exportsOf('covered', instrument('exports.covered = (n) => n + 1;'));
    expect(() => offload(covered.covered as () => unknown)).toThrow(
      /^offload: .* has the coverage counter "cov_\w+" in it: write \/\* istanbul ignore next \*\/ before it/,
    );
    const ignored = exportsOf('ignored', instrument('exports.ignored = /* istanbul ignore next */ (n) => n + 1;'));
    expect(await offload(ignored.ignored as (n: number) => number)(1)).toBe(2);
  });
});

describe('what may be offloaded', () => {
  const outer = 1;
  const refused = { code: 'ERR_UNBLOCK_NOT_SELF_CONTAINED', name: 'TypeError' };
  const made = (text: string) => new Function(`return ${text}`)() as () => unknown;

  it.each([
    [
      'a variable of its surroundings',
      () => outer,
      /uses "outer" from outside .* hand what it needs to it as arguments/,
    ],
    ['one in a default parameter', (n = outer) => n, /uses "outer"/],
    ['itself by the name of a variable', made('(() => { const f = (n) => f(n - 1); return f; })()'), /function f\(\)/],
    ['one in a computed name', () => ({ [outer]: 1 }), /uses "outer"/],
    ['one in a nested function', () => [1].map((n) => n + outer), /uses "outer"/],
    ['several', made('() => [first, second, first]'), /uses "first", "second" from/],
    ['the this of its surroundings', made('() => this.x'), /uses "this" .* write it as a function/],
    ['the arguments of its surroundings', made('() => arguments'), /uses "arguments"/],
    [
      'super',
      {
        method() {
          return super.toString();
        },
      }.method,
      /uses "super"/,
    ],
    ['what only browsers have', made('() => document.title'), /uses "document"/],
    ['what this version of Node lacks', made('() => new EventSource("/")'), /uses "EventSource"/],
    [
      'a variable of its surroundings behind a typeof',
      made('() => (typeof stem === "function" ? stem() : 1)'),
      /uses "stem"/,
    ],
    ["webpack's import()", made('async () => __webpack_require__.e(1)'), /import\(\/\* webpackIgnore: true \*\/ …\)$/],
    [
      "webpack's import(), minified",
      made('(() => { const n = Object.assign(() => {}, { d() {}, o() {} }); return async () => n.e(1); })()'),
      /uses "n" from .*webpackIgnore/,
    ],
    ["ncc's import()", made('async () => __nccwpck_require__.e(1)'), /webpackIgnore: true/],
    ["esbuild's import()", made('async () => (init_words(), words_exports)'), /mark what it imports as external$/],
    [
      'what Vite has made of an import',
      made('(t) => (0, __vite_ssr_import_0__.createHash)(t)'),
      /uses "createHash" from/,
    ],
    ['what Vite has made of import.meta', made('() => __vite_ssr_import_meta__.url'), /uses "import.meta" from/],
    ['a bound function', function bound() {}.bind(null), /is native or bound/],
    ['a native function', Math.max, /max is native or bound/],
    ['a class', class Thing {} as never, /Thing is a class/],
    ['a generator', made('function* steps() { yield 1; }'), /steps is a generator/],
    [
      'a getter',
      Object.getOwnPropertyDescriptor(
        {
          get x() {
            return 1;
          },
        },
        'x',
      )?.get as () => 1,
      /is a getter/,
    ],
  ])('is not %s', (_, fn, message) => {
    expect(() => offload(fn as () => unknown)).toThrow(message);
    expect(() => offload(fn as () => unknown)).toThrow(expect.objectContaining(refused));
  });

  it.each([
    ['labels', made('() => { outer: for (;;) for (;;) break outer; return 1; }'), 1],
    ['its own arguments', made('function () { return arguments.length; }'), 0],
    [
      'parameters of all kinds',
      made('function (a = 1, { b, ...c } = { b: a }, [d] = [b], ...e) { return [a, b, c, d, e]; }'),
      [1, 1, {}, 1, []],
    ],
    ['its parameters beside an eval', made('function twice(n = 3) { return eval("2 * n"); }'), 6],
    ['itself by name', made('function count(n = 3) { return n > 0 ? count(n - 1) + 1 : 0; }'), 3],
    ['hoisted names', made('() => { return later(); function later() { return early; } var early; }'), undefined],
    ['names asked with typeof', made('() => typeof window === "undefined" ? "none" : window.title'), 'none'],
    [
      'classes with super and this',
      made('() => { class A { x = 1 } class B extends A { y = this.x; m() { return super.m; } } return new B().y; }'),
      1,
    ],
    [
      'shadowed names',
      made('() => { const require = 1; try { throw 2; } catch (outer) { return require + outer; } }'),
      3,
    ],
    ['sloppy code', made('function () { return 010; }'), 8],
    ['text that speaks of classes and native code', made('() => "class { [native code] }"'), 'class { [native code] }'],
    ['a new.target', made('function () { return new.target; }'), undefined],
  ])('may use %s', async (_, fn, result) => {
    expect(await offload(fn)()).toEqual(result);
  });
});
