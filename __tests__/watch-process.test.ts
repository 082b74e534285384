import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { type AddressInfo, createServer } from 'node:net';
import path from 'node:path';
import { text } from 'node:stream/consumers';
import { setTimeout as wait } from 'node:timers/promises';
import { build } from 'esbuild';
import { startWatched, stopWatched, watchFixture } from './support/watched-app';

jest.setTimeout(90_000);
afterEach(stopWatched);

const REGISTER = ['--import', 'express-unblock/watch/register'];
const major = Number(process.versions.node.split('.')[0]);
const ours = (lines: readonly string[]) => lines.filter((line) => line.startsWith('express-unblock'));
const about = (place: string) =>
  new RegExp(`^express-unblock: GET /work blocked the event loop for \\d+ ms in ${place}`);
const IN_COMPUTE = about('compute \\(compute\\.cjs:\\d+\\)');

describe('without a line in the app', () => {
  test.each([
    ['--import, CommonJS', 'app.cjs', REGISTER],
    ['--require, CommonJS', 'app.cjs', ['--require', 'express-unblock/watch/register']],
    ['--import, an ES module', 'app.mjs', REGISTER],
  ])('%s', async (_name, file, flags) => {
    const app = await startWatched(file, { flags });
    void app.request('/work');
    await app.line(IN_COMPUTE);
  });

  test('NODE_OPTIONS, with the same on the command line: one watch', async () => {
    const env = { NODE_OPTIONS: REGISTER.join(' '), WATCH: '{}' };
    const app = await startWatched('app.cjs', { flags: REGISTER, env });
    await app.request('/work');
    await app.line(IN_COMPUTE);
    await app.request('/end');
    await app.exited;
    expect(ours(app.lines)).toHaveLength(1);
  });

  test('options of the app count', async () => {
    const app = await startWatched('app.cjs', { flags: REGISTER, env: { WATCH: '{ "threshold": "10s" }' } });
    await app.request('/work');
    await app.request('/end');
    await app.exited;
    expect(ours(app.lines)).toEqual([]);
  });
});

describe('the line of the source', () => {
  let folder: string;
  beforeEach(() => {
    folder = mkdtempSync(path.join(__dirname, 'watch-built-'));
  });
  afterEach(() => rmSync(folder, { recursive: true }));

  test('in JavaScript that was compiled, with --enable-source-maps', async () => {
    const outfile = path.join(folder, 'app.mjs');
    await build({
      entryPoints: [watchFixture('app.mts')],
      outfile,
      bundle: true,
      minify: true,
      sourcemap: true,
      platform: 'node',
      format: 'esm',
      external: ['express'],
      banner: { js: "import { createRequire } from 'node:module'; const require = createRequire(import.meta.url);\n" },
    });
    const app = await startWatched(outfile, { flags: [...REGISTER, '--enable-source-maps'] });
    void app.request('/work');
    await app.line(about('\\S+ \\(compute\\.cjs:\\d+\\)'));
  });

  test('under tsx', async () => {
    const app = await startWatched('app.mts', { flags: [...REGISTER, '--import', 'tsx'] });
    void app.request('/work');
    await app.line(IN_COMPUTE);
  });

  // From 22 on.
  if (major >= 22) {
    test('with Node’s own type stripping', async () => {
      const flags = major === 22 ? ['--experimental-strip-types'] : [];
      const app = await startWatched('app.mts', { flags: [...REGISTER, ...flags] });
      void app.request('/work');
      await app.line(IN_COMPUTE);
    });
  }
});

describe('exitAfter', () => {
  const env = { WATCH: '{ "threshold": 50, "exitAfter": "1s" }' };

  test.each(['endless', 'regex'])('ends a process that hangs in %s, and says where', async (kind) => {
    const app = await startWatched('app.cjs', { env });
    void app.request(`/${kind}`);
    expect(await app.exited).toEqual({ code: 70, signal: null });
    await app.line(new RegExp(`^express-unblock: GET /${kind} blocked .* in ${kind} \\(app\\.cjs:\\d+\\).*; exiting$`));
    expect(app.lines.at(-1)).toMatch(/; exiting$/);
  });

  test('ends a process that hangs in a synchronous call', async () => {
    const app = await startWatched('app.cjs', { env });
    void app.request('/sleep');
    expect(await app.exited).toEqual({ code: null, signal: 'SIGKILL' });
    expect(app.lines.at(-1)).toMatch(/^express-unblock: something has blocked the event loop for .*; exiting$/);
  });

  test('a cluster starts another worker', async () => {
    const port = await freePort();
    const app = await startWatched('app.cjs', { env: { ...env, CLUSTER: '1', PORT: String(port) } });
    void app.request('/endless');
    await app.line(/in endless \(app\.cjs:\d+\).*; exiting$/);
    await app.line(/^worker exited with 70$/);
    await app.line(/^http:/);
    expect((await app.request('/end'))?.status).toBe(200);
  });

  test('leaves a process alone that comes back in time, and one that was stopped', async () => {
    const app = await startWatched('app.cjs', { env });
    app.signal('SIGSTOP');
    await wait(1500);
    app.signal('SIGCONT');
    expect((await app.request('/work'))?.status).toBe(200);
    await app.line(IN_COMPUTE);
    await app.request('/end');
    expect(await app.exited).toEqual({ code: 0, signal: null });
  });
});

describe('a watch is not noticed', () => {
  test('the process ends with its app, and prints nothing', async () => {
    const app = await startWatched('app.cjs', { flags: REGISTER });
    await app.request('/end');
    expect(await app.exited).toEqual({ code: 0, signal: null });
    expect(app.lines).toHaveLength(1);
  });

  test.each(['/exit', '/native-exit'])('%s while a sample is taken', async (route) => {
    const app = await startWatched('app.cjs', { env: { WATCH: '{ "threshold": 20 }' } });
    void app.request(route);
    expect(await app.exited).toEqual({ code: 3, signal: null });
    expect(app.lines).toHaveLength(1);
  });

  test.each(['app.cjs', 'app.mjs'])('nothing is said of the start of %s', async (file) => {
    const app = await startWatched(file, { flags: REGISTER, env: { START_MS: '400' } });
    await app.request('/end');
    app.signal('SIGTERM');
    await app.exited;
    expect(app.lines).toHaveLength(1);
  });

  test('beside --inspect', async () => {
    const app = await startWatched('app.cjs', { flags: ['--inspect=0', ...REGISTER] });
    void app.request('/work');
    await app.line(IN_COMPUTE);
    await app.request('/end');
    expect(await app.exited).toEqual({ code: 0, signal: null });
  });
});

test('a debugger at a breakpoint is no block, and ends nothing', async () => {
  const app = await startWatched('debugger.cjs', { flags: ['--inspect=0'] });
  const answer = await app.request('/pause');
  expect(await answer?.text()).toBe('resumed');
  await app.request('/end');
  expect(await app.exited).toEqual({ code: 0, signal: null });
  expect(ours(app.lines)).toEqual([]);
});

test('the process that `node --test` starts its tests from is not watched', async () => {
  const run = spawn(process.execPath, ['--test', watchFixture('passing.test.cjs')], {
    env: { ...process.env, NODE_OPTIONS: REGISTER.join(' '), NODE_TEST_CONTEXT: undefined },
    cwd: path.join(__dirname, '..'),
  });
  const [output, [code]] = await Promise.all([text(run.stdout), once(run, 'exit')]);
  expect(output).toMatch(/pass 1/);
  expect(code).toBe(0);
});

describe('where Node’s permission model forbids it', () => {
  const permission = [
    major === 20 ? '--experimental-permission' : '--permission',
    '--allow-fs-read=*',
    ...(process.allowedNodeEnvironmentFlags.has('--allow-net') ? ['--allow-net'] : []),
  ];

  test.each([
    ['threads', []],
    ['the inspector', ['--allow-worker']],
  ])('%s: says so once, and stays out of the way', async (_what, allowed) => {
    const flags = [...permission, ...allowed, ...REGISTER];
    const app = await startWatched('app.cjs', { flags, env: { WATCH: '{}' } });
    await app.line(/^express-unblock: watch\(\) is off: .*permission model$/);
    expect((await app.request('/work'))?.status).toBe(200);
    await app.request('/end');
    await app.exited;
    expect(ours(app.lines)).toHaveLength(1);
  });

  // Before 24, Node allows no inspector there.
  if (major >= 24) {
    test('with --allow-worker and --allow-inspector it works', async () => {
      const flags = [...permission, '--allow-worker', '--allow-inspector', ...REGISTER];
      const app = await startWatched('app.cjs', { flags });
      void app.request('/work');
      await app.line(IN_COMPUTE);
    });
  }
});

async function freePort(): Promise<number> {
  const server = createServer().listen(0);
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, 'close');
  return port;
}
