import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { buildSync } from 'esbuild';
import { fixture, ROOT, runNode } from './support/workers';

jest.setTimeout(30_000); // Processes start, on however busy a machine.

const folder = mkdtempSync(fixture('tool-chains-'));
afterAll(() => rmSync(folder, { recursive: true }));

function written(name: string, content: string): string {
  const file = path.join(folder, name);
  mkdirSync(path.dirname(file), { recursive: true });
  writeFileSync(file, content);
  return file;
}

const app = written('app.js', "import { offload } from 'express-unblock';\noffload(() => 1);");
const REQUIRE = "import { createRequire } from 'node:module'; const require = createRequire(import.meta.url);";

describe('an app with the package in its one-file bundle', () => {
  it.each([
    ['CommonJS', { format: 'cjs', outfile: 'one.cjs' }],
    // As a worker's own script is called.
    ['CommonJS called main.js', { format: 'cjs', outfile: 'main.js' }],
    ['an ES module', { format: 'esm', outfile: 'one.mjs', banner: { js: REQUIRE } }],
  ] as const)('of %s is told at its first offload() to keep it out', async (_, { outfile, ...options }) => {
    const file = path.join(folder, 'bundle', outfile);
    buildSync({ entryPoints: [app], bundle: true, platform: 'node', logLevel: 'error', outfile: file, ...options });
    const { code, stderr } = await runNode(file);
    expect(stderr).toMatch(
      /TypeError: express-unblock: .* keep it out of the bundle and install it beside it: esbuild --ext/,
    );
    expect(code).toBe(1);
  });
});

it('offloading adds no global to the app, and one to its workers', async () => {
  const script = `
    const { offload } = require('express-unblock');
    const before = Object.getOwnPropertyNames(globalThis);
    const names = offload((helped) => { const { ...copy } = helped; return Object.getOwnPropertyNames(globalThis); });
    names({}).then((inWorker) => {
      for (const all of [Object.getOwnPropertyNames(globalThis), inWorker]) {
        console.log(all.filter((name) => !before.includes(name)).join());
      }
    });`;
  const { stdout } = await runNode('--eval', script);
  expect(stdout).toBe('\n__unblock\n');
});

it('under --permission, rights to start processes and threads are all that it needs', async () => {
  const permission = process.allowedNodeEnvironmentFlags.has('--permission')
    ? '--permission'
    : '--experimental-permission';
  const script = written(
    'permitted.cjs',
    `const { closePools, offload } = require('express-unblock');
    const add = offload((a, b) => a + b);
    const spin = offload(() => { for (;;); });
    (async () => {
      const sums = [await add(1, 2), await spin.with({ timeout: 50 })().catch(({ code }) => code), await add(3, 4)];
      await closePools();
      console.log(sums.join(' '));
    })();`,
  );
  const flags = [permission, '--allow-fs-read=*', '--allow-child-process', '--allow-worker', '--no-warnings'];
  expect(await runNode(...flags, script)).toEqual({
    code: 0,
    signal: null,
    stdout: '3 ERR_UNBLOCK_TIMEOUT 7\n',
    stderr: '',
  });
});

it("Jest's --detectOpenHandles reports nothing of ours, pools open or closed", () => {
  written(
    'jest/handles.test.js',
    `const { createPool, defaultPool, limitInput, offload, timeout } = require('express-unblock');
    const express = require('express');
    const request = require('supertest');
    test('an app', async () => {
      const closed = createPool({ workers: 1 });
      const add = offload((a, b) => a + Math.max(b, 1));
      const app = express();
      app.use(timeout('30s'), limitInput('1kb'), express.json());
      app.post('/', add.handler(({ body }) => [body.a, body.b]));
      app.post('/late', timeout(20), () => {});
      expect((await request(app).post('/').send({ a: 1, b: 2 })).body).toBe(3);
      expect((await request(app).post('/late').send({ a: 1 })).status).toBe(504);
      expect(await offload(() => 5, { pool: closed })()).toBe(5);
      await closed.close();
      expect(defaultPool().stats().workers).toBe(1);
    }, 60_000);`,
  );
  const jest = path.join(ROOT, 'node_modules', 'jest', 'bin', 'jest.js');
  const { stderr, status } = spawnSync(
    process.execPath,
    [jest, '--rootDir', path.join(folder, 'jest'), '--detectOpenHandles', '--config', '{}'],
    { cwd: ROOT, encoding: 'utf8', env: { ...process.env, NO_COLOR: '1' } },
  );
  expect(stderr).toContain('1 passed');
  expect(stderr).not.toContain('open handle');
  expect(status).toBe(0);
}, 60_000);
