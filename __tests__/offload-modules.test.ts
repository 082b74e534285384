import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import { format, inspect } from 'node:util';
import { closePools, createPool, offload, type WorkerPool } from 'express-unblock';
import { isWorker } from 'express-unblock/worker';
import { childrenOf, fixture, forkedDuring, runNode } from './support/workers';

const pool = createPool({ workers: 1 });
const folder = mkdtempSync(fixture('written-'));
afterAll(() => rmSync(folder, { recursive: true }));
afterAll(() => closePools({ grace: 0 }));

type Tasks = typeof import('./offload-fixtures/tasks.mjs');
const esm = offload.module<Tasks>(pathToFileURL(fixture('tasks.mjs')), { pool });
const cjs = offload.module(fixture('plain.cjs'), { pool });

function written(name: string, text: string) {
  const file = path.join(folder, name);
  writeFileSync(file, text);
  return file;
}

describe('offload.module', () => {
  it('gives a function for each export, of ES and CommonJS modules', async () => {
    expect(await esm.double(21)).toBe(42);
    expect(await cjs.triple?.(14)).toBe(42);
    expect(esm.double.name).toBe('double');
    expect(esm.double).toBe(esm.double);
  });

  it('runs relative imports, top-level await and the default export', async () => {
    expect(await esm.thrice(2)).toBe(6);
    expect(await esm.where()).toMatchObject({ ready: true });
    expect(await esm.default()).toBe('default');
  });

  it('takes the default export of CommonJS, as it is or as compilers write it', async () => {
    const plain = offload.module(written('plain-default.cjs', 'module.exports = (n) => n + 1;'), { pool });
    const compiled = offload.module(
      written(
        'compiled.cjs',
        'Object.defineProperty(exports, "__esModule", { value: true }); exports.default = (n) => n + 2; exports.named = (n) => n + 3;',
      ),
      { pool },
    );
    expect(await plain.default?.(1)).toBe(2);
    expect(await compiled.default?.(1)).toBe(3);
    expect(await compiled.named?.(1)).toBe(4);
  });

  it('keeps what a module holds warm between calls', async () => {
    expect([await esm.count(), await esm.count(), await esm.count()]).toEqual([1, 2, 3]);
  });

  it('names what there is when an export does not exist', async () => {
    const { missing, text } = esm as unknown as Record<string, () => Promise<unknown>>;
    const error = { code: 'ERR_UNBLOCK_NO_SUCH_EXPORT', name: 'TypeError' };
    await expect(missing?.()).rejects.toMatchObject({
      ...error,
      message: expect.stringMatching(/tasks\.mjs exports no function "missing"; it exports .*double/),
    });
    await expect(text?.()).rejects.toMatchObject(error);
  });

  it.each(['toString', 'valueOf', 'constructor', 'hasOwnProperty'])('calls an export named %s', async (name) => {
    const file = written(`${name}.cjs`, `exports.${name} = (n) => n + 1;`);
    const tasks: Record<string, (n: number) => Promise<unknown>> = offload.module(file, { pool });
    expect(await tasks[name]?.(1)).toBe(2);
  });

  it('can be awaited and inspected as the plain object it is', async () => {
    expect(await Promise.resolve(esm)).toBe(esm);
    expect(JSON.stringify({ esm })).toBe('{"esm":{}}');
    expect(`${esm}`).toBe('[object Object]');
    expect([String(esm), `${[esm]}`, Number(esm)]).toEqual(['[object Object]', '[object Object]', Number.NaN]);
    expect(format('%s', esm)).toMatch(/\{\}|\[object Object\]/);
    // Since Node 26 a proxy is shown as one.
    expect(inspect(esm)).toMatch(/^(\{\}|Proxy\(\{\}\))$/);
  });

  it('rejects with what a failing import threw, each time, and goes on with other modules', async () => {
    const file = written('broken.cjs', 'throw Object.assign(new RangeError("not today"), { code: "E_TODAY" });');
    const broken = offload.module(file, { pool });
    for (let n = 0; n < 2; n++) {
      await expect(broken.task?.()).rejects.toMatchObject({
        name: 'RangeError',
        message: 'not today',
        code: 'E_TODAY',
      });
    }
    expect(await esm.double(1)).toBe(2);
  });

  it('kills the worker of a call that is given up, so that nobody inherits what it left half-done', async () => {
    const before = await esm.where();
    const [successor] = await forkedDuring(async () => {
      await expect(esm.spin.with({ timeout: 50 })()).rejects.toMatchObject({ code: 'ERR_UNBLOCK_TIMEOUT' });
      await esm.where();
    });
    const after = await esm.where();
    expect(after.pid).toBe(successor?.pid);
    expect(after.pid).not.toBe(before.pid);
    expect(await esm.count()).toBe(1);
  });

  it('interrupts it instead where that was asked for', async () => {
    const tasks = offload.module<Tasks>(fixture('tasks.mjs'), { pool, reclaim: 'interrupt' });
    let [before, after] = [await tasks.where(), { pid: 0 }];
    // An interrupt has 100 ms, which a machine busy with much else may not grant at once.
    for (let tries = 0; tries < 3 && after.pid !== before.pid; tries++) {
      before = await tasks.where();
      await expect(tasks.spin.with({ timeout: 50 })()).rejects.toMatchObject({ code: 'ERR_UNBLOCK_TIMEOUT' });
      after = await tasks.where();
    }
    expect(after).toEqual(before);
  });
});

describe('express-unblock/worker', () => {
  it('tells which side a file is on', async () => {
    expect(isWorker).toBe(false);
    expect(await esm.where()).toMatchObject({ isWorker: true });
    expect(await cjs.where?.()).toMatchObject({ isWorker: true });
  });

  it.each([
    ['ESM', esm],
    ['CommonJS', cjs],
  ] as const)('reports progress from %s', async (_, tasks) => {
    const seen: unknown[] = [];
    await (tasks as typeof esm).report.with({ onProgress: (value) => seen.push(value) })(3);
    expect(seen).toEqual([1, 2, 3]);
  });

  it.each([
    ['ESM', esm],
    ['CommonJS', cjs],
  ] as const)('has the signal of the running task in %s', async (_, tasks) => {
    const { untilAborted } = tasks as typeof esm;
    for (let n = 0; n < 2; n++) {
      const stop = new AbortController();
      const reason = Object.assign(new Error('enough'), { code: 'E_ENOUGH' });
      const call = untilAborted.with({ signal: stop.signal, onProgress: () => stop.abort(reason) })();
      await expect(call).rejects.toBe(reason);
    }
    expect((await esm.where()).isWorker).toBe(true);
  });
});

describe('inside of a worker', () => {
  const nested = `
    const { closePools, createPool, offload } = require('express-unblock');
    const pool = createPool({ workers: 2, minWorkers: 2 });
    let base = process.pid;
    const inner = offload(function inner(n) { this.progress(n); return [base, process.pid, n]; }, { pool });
    const other = offload.module(require('node:path').join(__dirname, '..', 'plain.cjs'));
    exports.outer = async (n) => {
      await pool.ready();
      const [a, b, c] = await inner(n);
      const { pid } = await other.where();
      return { inPlace: a === b && b === pid, n: c, workers: pool.stats().workers };
    };`;

  it('offloaded functions run in place, and pools start nothing', async () => {
    const tasks = offload.module(written('nested.cjs', nested), { pool });
    const seen: unknown[] = [];
    expect(await tasks.outer?.with({ onProgress: (value) => seen.push(value) })(7)).toEqual({
      inPlace: true,
      n: 7,
      workers: 0,
    });
    expect(seen).toEqual([7]);
  });
});

describe('what is loaded into a worker before its own script', () => {
  const preloading = (name: string, flag: string, text: string) => {
    const file = written(name, text);
    return createPool({ workers: 1, env: { ...process.env, NODE_OPTIONS: `${flag}=${pathToFileURL(file).pathname}` } });
  };

  it.each([
    ['--import', 'preload.mjs', "import '../tasks.mjs';", 'tasks.mjs'],
    ['--require', 'preload.cjs', "require('../plain.cjs');", 'plain.cjs'],
  ])('knows with %s that it is in one, and hears of aborts', async (flag, name, text, module) => {
    await using early = preloading(name, flag, text);
    const tasks = offload.module<Tasks>(fixture(module), { pool: early, reclaim: 'interrupt' });
    const before = await tasks.where();
    expect(before.isWorker).toBe(true);
    const stop = new AbortController();
    const call = tasks.untilAborted.with({ signal: stop.signal, onProgress: () => stop.abort() })();
    await expect(call).rejects.toMatchObject({ name: 'AbortError' });
    // One that hears nothing is killed.
    expect(await tasks.where()).toEqual(before);
  });

  it('has pools that start nothing', async () => {
    // A chain of workers would end by itself.
    const text = `
      import { createPool } from 'express-unblock';
      const depth = Number(process.env.DEPTH ?? 0);
      process.env.DEPTH = String(depth + 1);
      globalThis.early = depth < 2 ? createPool({ workers: 1, minWorkers: 1 }) : undefined;`;
    await using early = preloading('nesting.mjs', '--import', text);
    const look = offload(
      () => [process.pid, (globalThis as unknown as { early: WorkerPool }).early.stats().workers] as const,
      { pool: early },
    );
    const [pid, workers] = await look();
    expect([workers, childrenOf(pid)]).toEqual([0, []]);
  });
});

describe('TypeScript under tsx', () => {
  it('runs in workers as it does in the parent', async () => {
    written(
      'tasks.mts',
      'enum Unit { Kilo = 1000 }\nexport const grams = (kilos: number): number => kilos * Unit.Kilo;\nexport default (): string => "by default";',
    );
    const main = written(
      'main.mts',
      `import { offload } from 'express-unblock';
      const tasks = offload.module<typeof import('./tasks.mjs')>(new URL('./tasks.mjs', import.meta.url));
      const half = offload(async function half(n: number): Promise<number> {
        const inner = (value: number) => value / 2;
        const { grams } = await import('./tasks.mjs');
        return inner(grams(n));
      });
      console.log(await tasks.grams(2), await half(2), await tasks.default());`,
    );
    expect(await runNode('--import', 'tsx', main)).toEqual({
      code: 0,
      signal: null,
      stdout: '2000 1000 by default\n',
      stderr: '',
    });
  }, 20_000);
});
