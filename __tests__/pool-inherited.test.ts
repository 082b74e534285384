import { spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { text } from 'node:stream/consumers';
import { closePools, createPool, offload } from 'express-unblock';
import { fixture, ROOT } from './support/workers';

jest.setTimeout(30_000); // Processes start, on however busy a machine.

const folder = mkdtempSync(fixture('inherited-'));
afterAll(() => rmSync(folder, { recursive: true }));
afterAll(() => closePools({ grace: 0 }));

function written(name: string, content: string): string {
  const file = path.join(folder, name);
  mkdirSync(path.dirname(file), { recursive: true });
  writeFileSync(file, content);
  return file;
}

const agent = written('tracing.cjs', 'globalThis.preloaded = "an agent";');
const inFolder = written('swc/tracing.cjs', 'globalThis.preloaded = "an agent";');
const loader = written('sentry/tsx-like.cjs', 'globalThis.preloaded = "a loader";');
const known = written('dd-trace.cjs', 'globalThis.preloaded = "an agent";');
const LOOK = '() => [globalThis.preloaded ?? "nothing", process.execArgv.join(" "), process.env.NODE_OPTIONS ?? ""]';

/** What a worker says of itself, of a process started so. */
async function seenBy(flags: string[], nodeOptions: string | undefined, pool = 'undefined') {
  const script = `
    const { createPool, offload } = require('express-unblock');
    offload(${LOOK}, { pool: ${pool} })().then((seen) => console.log(JSON.stringify(seen)));`;
  const { NODE_OPTIONS: _, ...env } = process.env;
  const child = spawn(process.execPath, [...flags, '--eval', script], {
    cwd: ROOT,
    env: nodeOptions === undefined ? env : { ...env, NODE_OPTIONS: nodeOptions },
    stdio: ['ignore', 'pipe', 'ignore'], // Node tells of its inspector on standard error.
    timeout: 20_000,
  });
  const [preloaded, execArgv, options] = JSON.parse(await text(child.stdout));
  return { preloaded, execArgv, options };
}

describe('of NODE_OPTIONS, a worker takes over', () => {
  it.each([
    ['no agent', `--require ${agent} --no-deprecation`, { preloaded: 'nothing', options: '--no-deprecation' }],
    ['no agent, written with =', `--require=${agent} --require=${inFolder}`, { preloaded: 'nothing', options: '' }],
    ['loaders of code', `-r ${loader}`, { preloaded: 'a loader', options: `-r ${loader}` }],
    ['no inspector', '--inspect=0 --no-deprecation', { options: '--no-deprecation' }],
    ['what else there is, as it is', '--title="a b"  --no-deprecation', { options: '--title="a b" --no-deprecation' }],
  ])('%s', async (_, options, expected) => {
    expect(await seenBy([], options)).toMatchObject(expected);
  });

  it('all, where the pool was given one of its own', async () => {
    const own = `{ ...process.env, NODE_OPTIONS: '--require ${agent}' }`;
    expect(await seenBy([], undefined, `createPool({ env: ${own} })`)).toMatchObject({ preloaded: 'an agent' });
  });
});

describe('of its command line, a worker takes over', () => {
  it.each([
    ['what is preloaded', ['--require', agent], { preloaded: 'an agent', execArgv: `--require ${agent}` }],
    ['a loader in a folder of any name', ['-r', loader], { preloaded: 'a loader' }],
    ['no agent that is known as one', ['--require', known, '--no-deprecation'], { execArgv: '--no-deprecation' }],
  ])('%s', async (_, flags, expected) => {
    expect(await seenBy(flags, undefined)).toMatchObject(expected);
  });

  it('an agent, where the pool was told so', async () => {
    const pool = 'createPool({ execArgv: process.execArgv.slice(0, 2) })';
    expect(await seenBy(['--require', known], undefined, pool)).toMatchObject({ preloaded: 'an agent' });
  });
});

describe('a task module of TypeScript', () => {
  const plain = written('plain.mts', 'export const one = (): number => 1;');
  const jsx = written('jsx.tsx', 'export const one = () => <p />;');
  const compiled = path.join(folder, 'plain.mjs');
  const refused = /^offload\.module: url must be a module that workers can read: JavaScript, or with createPool\(/;
  const strips = Boolean((process.features as { typescript?: unknown }).typescript);

  it('is refused where no loader in the workers can read it', () => {
    expect(() => offload.module(compiled)).toThrow(refused);
    expect(() => offload.module(jsx)).toThrow(refused);
  });

  it('is taken by its own name on a Node that strips types, and on no other', async () => {
    if (strips) expect(await offload.module<{ one(): number }>(plain).one()).toBe(1);
    else expect(() => offload.module(plain)).toThrow(refused);
  });

  it.each([
    ['its flags', { execArgv: ['--import', 'tsx'] }],
    ['its NODE_OPTIONS', { env: { ...process.env, NODE_OPTIONS: '--import=tsx' } }],
  ])('is taken where the pool has a loader in %s', async (_, options) => {
    await using pool = createPool({ workers: 1, ...options });
    expect(await offload.module<{ one(): number }>(compiled, { pool }).one()).toBe(1);
    expect(() => offload.module(jsx, { pool })).not.toThrow();
  });
});
