import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { fixture, isAlive, runNode, startNode, untilGone } from './support/workers';

const PARENT = fixture('parent.cjs');

async function startedParent(action: string) {
  const { child, ended } = startNode(PARENT, action);
  const [worker] = (await once(child, 'message')) as [number];
  return { child, ended, worker };
}

describe('a worker', () => {
  it.each(['loop', 'regexp', 'idle'])('in a task (%s) is gone soon after its parent was killed', async (task) => {
    const { child, worker } = await startedParent(task);
    expect(isAlive(worker)).toBe(true);
    child.kill('SIGKILL');
    expect(await untilGone(worker)).toBeLessThan(1000);
  });

  it('in a loop is gone soon after its parent exited', async () => {
    const { ended, worker } = await startedParent('exitWhileRunning');
    expect((await ended).code).toBe(3);
    expect(await untilGone(worker)).toBeLessThan(1000);
  });

  it('is not interrupted by Ctrl-C, which goes to the whole process group', async () => {
    const { child, ended } = await startedParent('interrupted');
    process.kill(-(child.pid as number), 'SIGINT');
    expect(await ended).toEqual({ code: 0, signal: null, stdout: 'done\n', stderr: '' });
  });
});

describe('a process with a pool', () => {
  it.each([
    ['that was never used', 'unused', ''],
    ['that was used', 'used', 'done\n'],
    ['that keeps workers warm', 'keepsWarm', ''],
  ])('%s ends by itself, and prints nothing of ours', async (_, action, stdout) => {
    expect(await runNode(PARENT, action)).toEqual({ code: 0, signal: null, stdout, stderr: '' });
  });

  it('sees in stack traces where in its file a task threw', async () => {
    const { stdout } = await runNode(PARENT, 'throwing');
    const line =
      1 +
      readFileSync(PARENT, 'utf8')
        .split('\n')
        .findIndex((text) => text.includes('// here'));
    expect(stdout).toContain(`${PARENT}:${line}:13`);
  });

  it('is neither ended nor disturbed by a progress listener that throws or rejects', async () => {
    expect(await runNode(PARENT, 'throwingListener')).toEqual({
      code: 0,
      signal: null,
      stdout: 'done done\n',
      stderr: '',
    });
  });

  it.each([
    ['pool.ready()', 'await createPool({ minWorkers: 1 }).ready(); console.log("ready");', 'ready\n'],
    ['a call', 'console.log(await offload(() => 6 * 7)());', '42\n'],
    [
      'an import within a call',
      'console.log(await offload(async () => (await import("ms")).default("1s"))());',
      '1000\n',
    ],
    [
      'pool.close()',
      'const pool = createPool({ workers: 1 }); await offload(() => 1, { pool })(); await pool.close(); console.log("closed");',
      'closed\n',
    ],
    ['closePools()', 'await offload(() => 1)(); await closePools(); console.log("closed");', 'closed\n'],
  ])('may wait for %s at its top level', async (_, script, stdout) => {
    const imports = "import { closePools, createPool, offload } from 'express-unblock';";
    expect(await runNode('--input-type=module', '--eval', `${imports} ${script}`)).toEqual({
      code: 0,
      signal: null,
      stdout,
      stderr: '',
    });
  });

  it('may have flags with values that are not for its workers', async () => {
    const script = "import { offload } from 'express-unblock'; console.log(await offload(() => 6 * 7)());";
    const { code, stdout } = await runNode('--inspect-port', '0', '--input-type', 'module', '--eval', script);
    expect([code, stdout]).toEqual([0, '42\n']);
  });

  it.each(['-e', '-p', '--eval', '--eval='])('may be a text given with %s', async (flag) => {
    const script = "require('express-unblock').offload(() => 6 * 7)().then(console.log)";
    const { code, stdout } = await runNode(...(flag.endsWith('=') ? [flag + script] : [flag, script]));
    expect(code).toBe(0);
    // With -p, Node prints its promise too: before the result, or since Node 26 after it.
    expect(
      stdout
        .trim()
        .split('\n')
        .filter((line) => !line.startsWith('Promise')),
    ).toEqual(['42']);
  });

  it('outlives whatever a task sends it past its progress', async () => {
    const script = `
      const { offload } = require('express-unblock');
      const talk = offload((messages) => { for (const message of messages) process.send(message); return 'done'; });
      talk([null, 0, 'text', {}]).then(() => talk([])).then(console.log);`;
    expect(await runNode('-e', script)).toEqual({ code: 0, signal: null, stdout: 'done\n', stderr: '' });
  });

  it('gives workers a memory cap of their own, whatever its own is', async () => {
    const limit = '() => require("node:v8").getHeapStatistics().heap_size_limit / 1024 ** 2';
    const script = `
      const { createPool, offload } = require('express-unblock');
      const pool = createPool({ workers: 1, memory: '100mb' });
      Promise.all([offload(${limit}, { pool })(), offload(${limit})()]).then((all) => console.log(...all.map(Math.round)));`;
    const { stdout } = await runNode('--max-old-space-size=700', '-e', script);
    const [capped, inherited] = stdout.trim().split(' ').map(Number);
    // The limit counts the young generation too: up to 192 MB more since Node 24.
    expect(capped).toBeLessThan(400);
    expect(inherited).toBeGreaterThan(650);
  });
});
