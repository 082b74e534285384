import { execFileSync } from 'node:child_process';
import path from 'node:path';

const MAIN = path.resolve(__dirname, '../dist/index.js');

/** The packages, and the folders of this one, that are loaded once a new process has run some code. */
function loadedBy(code: string): string[] {
  const script = `const unblock = require(${JSON.stringify(MAIN)}); ${code};
    console.log(JSON.stringify(Object.keys(require.cache)));`;
  const files: string[] = JSON.parse(execFileSync(process.execPath, ['--eval', script], { encoding: 'utf8' }));
  const names = files.map((file) =>
    /node_modules\/(\w[^/]*)|dist\/(?:(\w+)\/)?[\w-]+\.js$/.exec(file.replaceAll('\\', '/')),
  );
  return [...new Set(names.map((found) => found?.[1] ?? found?.[2] ?? 'dist'))];
}

const EVERYONE = ['dist', 'request', 'bytes', 'http-errors', 'ms'];
const ONLY_TO_OFFLOAD = ['workerpool', 'acorn', 'eslint-scope', 'tslib'];

test('an app that only sets deadlines and limits loads no workerpool, no parser and no helpers of compilers', () => {
  const loaded = loadedBy("unblock.timeout('1s'); unblock.limitInput('1mb'); unblock.problemDetails()");
  expect(loaded).toEqual(expect.arrayContaining(EVERYONE));
  for (const name of [...ONLY_TO_OFFLOAD, 'bullmq', 'ioredis', 'express']) expect(loaded).not.toContain(name);
});

test('closing pools that there never were loads nothing more', () => {
  expect(loadedBy('unblock.closePools()')).not.toContain('workerpool');
});

test('the first offloaded function loads all that it needs, so that no call waits for it', () => {
  expect(loadedBy('unblock.offload(() => 1)')).toEqual(expect.arrayContaining(ONLY_TO_OFFLOAD));
});

test('createPool loads workerpool, and no parser', () => {
  const loaded = loadedBy('unblock.createPool()');
  expect(loaded).toContain('workerpool');
  expect(loaded).not.toContain('acorn');
});

test('the main entry loads nothing of TLS, which takes Node as long as all the rest', () => {
  const script = `require(${JSON.stringify(MAIN)}); console.log(process.moduleLoadList.includes('NativeModule tls'))`;
  expect(execFileSync(process.execPath, ['--eval', script], { encoding: 'utf8' })).toBe('false\n');
});

test('http-errors comes with the first middleware or pool, and not in the middle of a request', () => {
  expect(loadedBy('unblock')).not.toContain('http-errors');
  for (const setUp of ["timeout('1s')", "limitInput('1mb')", 'createPool()', 'offload(() => 1)']) {
    expect(loadedBy(`unblock.${setUp}`)).toContain('http-errors');
  }
});
