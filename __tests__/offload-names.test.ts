import crypto from 'node:crypto';
import { setTimeout } from 'node:timers/promises';
import { closePools, offload } from 'express-unblock';
import { fixture, runNode } from './support/workers';

jest.setTimeout(30_000); // Processes start, on however busy a machine.

afterAll(() => closePools({ grace: 0 }));

describe('a name that is also a global', () => {
  const expected = {
    'a default import': 'crypto',
    'a named import': 'setTimeout',
    'a namespace': 'fetch',
    'declared further down': 'Headers',
    'a parameter around': 'structuredClone',
    'a variable of a block around': 'atob',
    'a caught error around': 'queueMicrotask',
    'used in a nested function only': 'crypto',
    'asked with typeof first': 'Response',
    'the global': 'runs',
    'the global, imported': 'runs',
    'its own, declared inside': 'runs',
    'its own parameter': 'runs',
  };

  it.each([
    ['an ES module', [fixture('names.mjs')]],
    ['code that tsx compiles', ['--import', 'tsx', fixture('names.mjs')]],
  ])('is refused where the file means something else by it, in %s', async (_, args) => {
    const { stdout, stderr } = await runNode(...args);
    expect(stderr).toBe('');
    expect(JSON.parse(stdout)).toEqual(expected);
  });

  it('is refused by name, with the way out, in what a test runner has compiled', () => {
    const refused = (fn: () => unknown) => {
      try {
        return offload(fn);
      } catch (error) {
        return error;
      }
    };
    expect(refused(() => crypto.randomUUID())).toMatchObject({
      code: 'ERR_UNBLOCK_NOT_SELF_CONTAINED',
      message: expect.stringMatching(/from outside of itself\. .*use await import\(\) inside it/),
    });
    expect(refused(async () => setTimeout(1))).toMatchObject({
      message: expect.stringMatching(
        /uses "setTimeout" from outside of itself\. Its file has a "setTimeout" of its own/,
      ),
    });
    const fetch = async () => 'mine';
    expect(refused(() => fetch())).toMatchObject({
      message: expect.stringMatching(/uses "fetch" from outside of itself\. Its file has a "fetch" of its own, which/),
    });
  });

  it('passes where it is the global, by whichever way the file has it', async () => {
    const { structuredClone: clone, structuredClone } = globalThis;
    expect(clone).toBe(structuredClone);
    expect(await offload(() => structuredClone(1))()).toBe(1);
  });

  it('passes where nobody can tell what it is, as under --permission', async () => {
    const flags = process.allowedNodeEnvironmentFlags.has('--permission')
      ? ['--permission']
      : ['--experimental-permission'];
    const script = `
      const fetch = 1;
      require('express-unblock').offload(() => fetch);
      console.log('passed');`;
    const { stdout } = await runNode(...flags, '--allow-fs-read=*', '--eval', script);
    expect(stdout).toBe('passed\n');
  });
});
