import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { closePools, createPool, offload } from 'express-unblock';
import { fixture, forkedDuring } from './support/workers';

jest.setTimeout(30_000);

const folder = mkdtempSync(fixture('imported-'));
afterAll(() => rmSync(folder, { recursive: true }));
afterAll(() => closePools({ grace: 0 }));

let written = 0;

/** A module that takes its time to import, and counts how often it was. */
function slowModule(ms: number, extension = 'mjs') {
  const file = path.join(folder, `slow-${++written}.${extension}`);
  const log = `${file}.log`;
  writeFileSync(log, '');
  const isCommon = extension === 'cjs';
  const load = isCommon
    ? 'const { appendFileSync } = require("node:fs");'
    : 'import { appendFileSync } from "node:fs";';
  const slow = `for (const end = performance.now() + ${ms}; performance.now() < end; );`;
  const result = isCommon ? 'exports.pid = ' : 'export const pid = ';
  writeFileSync(file, `${load} appendFileSync(${JSON.stringify(log)}, "x"); ${slow} ${result} () => process.pid;`);
  const imports = (): number => require('node:fs').readFileSync(log, 'utf8').length;
  return { file, imports };
}

function moduleOf(text: string): string {
  const file = path.join(folder, `written-${++written}.mjs`);
  writeFileSync(file, text);
  return file;
}

describe('the modules offloaded to a pool', () => {
  it.each(['mjs', 'cjs'])(
    'are imported by the time that it is ready, and in no time of a call (%s)',
    async (extension) => {
      const { file, imports } = slowModule(800, extension);
      const pool = createPool({ workers: 1, minWorkers: 1 });
      const { pid } = offload.module(file, { pool });
      await pool.ready();
      expect(imports()).toBe(1);
      expect(await pid?.with({ timeout: 100 })()).toBeGreaterThan(0);
      expect(pool.stats().run.max).toBeLessThan(100);
      expect(imports()).toBe(1);
    },
  );

  it('are imported by workers that are up already, too, when somebody waits for the pool', async () => {
    const pool = createPool({ workers: 1 });
    await pool.ready();
    const { file, imports } = slowModule(50);
    offload.module(file, { pool });
    await pool.ready();
    expect(imports()).toBe(1);
    expect(pool.stats()).toMatchObject({ workers: 1, busy: 0 });
  });

  it('are imported when a call needs them, if they came later; a call that is given up leaves that alone', async () => {
    const pool = createPool({ workers: 1 });
    const pidOf = offload(() => process.pid, { pool });
    const before = await pidOf();
    const { file, imports } = slowModule(500);
    const { pid } = offload.module(file, { pool });
    for (let n = 0; n < 3; n++) {
      await expect(pid?.with({ timeout: 50 })()).rejects.toMatchObject({ code: 'ERR_UNBLOCK_TIMEOUT' });
    }
    const stop = new AbortController();
    const given = pid?.with({ signal: stop.signal })();
    stop.abort();
    await expect(given).rejects.toMatchObject({ name: 'AbortError' });
    expect(await pid?.()).toBe(before);
    expect(imports()).toBe(1);
  });

  it('are imported before calls that wait are handed to the worker that follows a killed one', async () => {
    const { file, imports } = slowModule(400);
    const pool = createPool({ workers: 1 });
    const slow = offload.module(file, { pool });
    const spinning = offload.module(moduleOf('export const spin = () => { for (;;); };'), { pool });
    await pool.ready();
    await expect(spinning.spin?.with({ timeout: 20 })()).rejects.toMatchObject({ code: 'ERR_UNBLOCK_TIMEOUT' });
    // They wait for longer than the import takes, and run for less.
    const pids = await Promise.all([1, 2, 3].map(() => slow.pid?.with({ timeout: 5000 })()));
    expect(new Set(pids).size).toBe(1);
    expect(imports()).toBe(2);
    expect(pool.stats()).toMatchObject({ completed: 3, timedOut: 1, died: 0 });
  });
});

describe('a module that cannot be imported', () => {
  const fine = () => moduleOf('export const pid = () => process.pid;');

  it.each([
    ['throws an error', 'throw new RangeError("not today"); export const pid = 1;', /not today/],
    ['throws no error', 'throw "a string"; export const pid = 1;', /a string/],
    ['rejects', 'await Promise.reject(new Error("later")); export const pid = 1;', /later/],
    ['is no JavaScript', 'export const = ;', /Unexpected token/],
    ['imports what is not there', 'import "not-there"; export const pid = 1;', /not-there/],
    ['imports a file that is not there', 'import "./not-there.mjs"; export const pid = 1;', /not-there\.mjs/],
  ])('because it %s fails its own calls, with the name of the file, and no others', async (_, text, message) => {
    const file = moduleOf(text);
    const pool = createPool({ workers: 1 });
    const broken = offload.module(file, { pool });
    const { pid } = offload.module(fine(), { pool });
    await pool.ready();
    for (let n = 0; n < 2; n++) {
      const error: Error = await broken.pid?.().then(
        () => new Error('It came through'),
        (thrown) => thrown,
      );
      expect(error.message).toMatch(message);
      expect(`${error.message} ${error.stack}`).toContain(path.basename(file));
    }
    expect(await pid?.()).toBeGreaterThan(0);
    expect(pool.stats()).toMatchObject({ workers: 1, died: 0, failed: 2 });
  });

  it.each([1, 3])('because it ends its process ends no other calls (of %i workers)', async (workers) => {
    const pool = createPool({ workers, minWorkers: workers });
    const broken = offload.module(moduleOf('process.exit(3); export const pid = 1;'), { pool });
    const { pid } = offload.module(fine(), { pool });
    const forked = await forkedDuring(async () => {
      expect(await pid?.()).toBeGreaterThan(0);
    });
    expect(forked.length).toBeLessThanOrEqual(2 * workers);
    const tried = await forkedDuring(async () => {
      await expect(broken.pid?.()).rejects.toMatchObject({ code: 'ERR_UNBLOCK_WORKER_DIED', exitCode: 3 });
    });
    expect(tried.length).toBeLessThanOrEqual(workers);
    expect(await pid?.()).toBeGreaterThan(0);
  });
});
