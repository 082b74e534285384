import { execFile } from 'node:child_process';
import path from 'node:path';
import { promisify } from 'node:util';
import { createPool, offload } from 'express-unblock';

/** What an ES module of a user's logs as JSON before it exits by itself. */
async function logOf(source: string): Promise<unknown> {
  const { stdout } = await promisify(execFile)(process.execPath, ['--input-type=module', '--eval', source], {
    cwd: path.join(__dirname, '..'),
  });
  return JSON.parse(stdout);
}

const differing = (specifier: string) => `
  import { createRequire } from 'node:module';
  import * as imported from '${specifier}';
  const required = createRequire(process.cwd() + '/')('${specifier}');
  const named = Object.keys(imported).filter((name) => !/^(__esModule|default|module\\.exports)$/.test(name));
  console.log(JSON.stringify({
    named,
    missing: Object.keys(required).filter((name) => !named.includes(name)),
    differing: named.filter((name) => imported[name] !== required[name]),
  }));
`;

test('import and require give the same functions, so that there is one default pool', async () => {
  expect(await logOf(differing('express-unblock'))).toEqual({
    named: [
      'closePools',
      'createPool',
      'currentDeadline',
      'defaultPool',
      'limitInput',
      'offload',
      'problemDetails',
      'timeout',
    ],
    missing: [],
    differing: [],
  });
});

test('so it is on the worker side, where a task may be of either kind', async () => {
  expect(await logOf(differing('express-unblock/worker'))).toEqual({
    named: ['isWorker', 'progress', 'signal'],
    missing: [],
    differing: [],
  });
});

test('so it is for pools on other machines', async () => {
  expect(await logOf(differing('express-unblock/bullmq'))).toEqual({
    named: ['connectPool', 'serve'],
    missing: [],
    differing: [],
  });
});

test('without bullmq and ioredis, which are optional, the first pool says what to install', async () => {
  const log = await logOf(`
    import Module from 'node:module';
    const { _resolveFilename } = Module;
    Module._resolveFilename = function (name, ...rest) {
      if (/^(bullmq|ioredis)$/.test(name)) throw Object.assign(new Error(\`Cannot find module '\${name}'\`), { code: 'MODULE_NOT_FOUND' });
      return Reflect.apply(_resolveFilename, this, [name, ...rest]);
    };
    const { connectPool } = await import('express-unblock/bullmq');
    try {
      connectPool({ connection: 'redis://localhost', queue: 'q' });
    } catch ({ message, code }) {
      console.log(JSON.stringify({ message, code }));
    }
  `);
  expect(log).toEqual({
    message: 'express-unblock/bullmq needs the package ioredis: npm install bullmq ioredis',
    code: 'MODULE_NOT_FOUND',
  });
});

test('so it is with the watch, of which a process has one', async () => {
  expect(await logOf(differing('express-unblock/watch'))).toEqual({ named: ['watch'], missing: [], differing: [] });
});

test('who does not ask for the watch does not load it, and neither do a worker thread and a worker process', async () => {
  const log = await logOf(`
    import { createRequire } from 'node:module';
    import { Worker } from 'node:worker_threads';
    import { offload } from 'express-unblock';
    const require = createRequire(process.cwd() + '/');
    const loaded = () => Object.keys(require.cache).filter((file) => /dist.watch/.test(file)).length;
    const inThread = \`
      import { createRequire } from 'node:module';
      import { parentPort } from 'node:worker_threads';
      const require = createRequire(process.cwd() + '/');
      require('express-unblock/watch').watch();
      const loaded = Object.keys(require.cache).some((file) => /main-thread/.test(file));
      parentPort.postMessage(loaded);
    \`;
    const inProcess = offload(async () => {
      const { watch } = await import('express-unblock/watch');
      watch().stop();
      return Symbol.for('express-unblock.watch') in globalThis;
    });
    const thread = new Worker(inThread, { eval: true });
    const threadWatched = await new Promise((resolve) => thread.once('message', resolve));
    console.log(JSON.stringify([loaded(), threadWatched, await inProcess()]));
  `);
  expect(log).toEqual([0, false, false]);
});

test('outside of a worker nothing aborts, and reporting progress does nothing', async () => {
  const log = await logOf(`
    import { isWorker, progress, signal } from 'express-unblock/worker';
    console.log(JSON.stringify([isWorker, signal.aborted, progress(1) ?? 'nothing']));
  `);
  expect(log).toEqual([false, false, 'nothing']);
});

test('the signal that an ES module imports is that of the task that runs', async () => {
  const pool = createPool({ workers: 1 });
  const tasks = offload.module(path.join(__dirname, 'support/hears-its-abort.mjs'), { pool, reclaim: 'interrupt' });
  const before = await tasks.state?.();

  const controller = new AbortController();
  const reason = new Error('enough');
  const call = tasks.untilAborted?.with({ signal: controller.signal, onProgress: () => controller.abort(reason) })();
  await expect(call).rejects.toBe(reason);

  expect(before).toEqual({ isWorker: true, aborted: false, pid: expect.any(Number) });
  expect(await tasks.state?.()).toEqual({ ...(before as object), heard: 'enough' });
  await pool.close();
});
