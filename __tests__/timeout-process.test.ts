import { spawn } from 'node:child_process';
import { once } from 'node:events';
import path from 'node:path';

jest.setTimeout(60_000);

/** Runs as a process of its own: what ends a process, and what it keeps, shows nowhere else. */
function run(express: string, script: string, { requests = 0, mode = 'test' } = {}) {
  const fixture = path.join(__dirname, 'support', 'app-under-test.cjs');
  const child = spawn(process.execPath, ['--expose-gc', fixture, express, script, String(requests)], {
    // In any other mode than 'test', Express logs the errors that no error handler of the app has taken.
    env: { ...process.env, NODE_ENV: mode },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let output = '';
  let errors = '';
  child.stdout.on('data', (text) => {
    output += text;
  });
  child.stderr.on('data', (text) => {
    errors += text;
  });
  return once(child, 'close').then(([code]) => ({ code, errors, lines: output.trim().split('\n') }));
}

describe.each([
  ['Express 5', 'express'],
  ['Express 4', 'express4'],
])('a process with timeout on %s', (_, express) => {
  it.each([
    ['an async handler that rejects', 'rejects', /^late (next|reject) late$/],
    ['an async handler that rejects with null', 'rejectsWithNull', /^late (next Rejected promise|reject undefined)$/],
    ['promises that its signal rejects and nobody awaits', 'rejectsUnawaited', /^late (next|reject) ABORT_ERR$/],
    ['a callback that throws', 'throws', /^late throw late$/],
    ['a listener of its signal that throws', 'throwsOnAbort', /^late throw late$/],
  ])('lives on, after the deadline, with %s', async (_, script, late) => {
    const { code, lines, errors } = await run(express, script);
    expect([code, errors]).toEqual([0, '']);
    expect(lines).toHaveLength(3);
    expect(lines).toEqual(expect.arrayContaining(['answered 504', expect.stringMatching(late), 'next 200']));
  });

  it('has a late rejection of an async handler told once, to who counts them, and not logged by Express besides', async () => {
    const { code, lines, errors } = await run(express, 'rejects', { mode: 'production' });
    expect([code, lines.filter((line) => line.startsWith('late'))]).toEqual([
      0,
      [`late ${express === 'express' ? 'next' : 'reject'} late`],
    ]);
    expect(errors).not.toMatch(/\blate\b/);
  });

  it('lives on where a handler that lost its client before it asked for the signal rejects with why', async () => {
    expect(await run(express, 'deserts')).toEqual({ code: 0, errors: '', lines: ['next 200'] });
  });

  it.each([
    ['a rejection outside of any request', 'rejectsOutside', /Error: outside/],
    ['a throw outside of any request', 'throwsOutside', /Error: outside/],
    ['a callback that throws within the deadline', 'throwsInTime', /Error: in time/],
    ['a callback that throws an error of its own after its client has left', 'desertsWithBug', /Error: a bug/],
    [
      'a throw outside of any request, after a late handler has restored process.emit',
      'restoresEmit',
      /Error: outside/,
    ],
    ['a rejection that is no error', 'rejectsWithText', /ERR_UNHANDLED_REJECTION/],
  ])('still ends, as Node does, with %s', async (_, script, message) => {
    const { code, errors } = await run(express, script);
    expect(code).toBe(1);
    expect(errors).toMatch(message);
  });

  it('still tells the listeners of the process what is not late', async () => {
    const { code, lines } = await run(express, 'listens');
    expect([code, lines.slice(1)]).toEqual([
      0,
      ['heard unhandledRejection outside', 'heard uncaughtException outside'],
    ]);
  });

  it('keeps nothing of its requests: no timer, no listener, no memory', async () => {
    const { code, lines, errors } = await run(express, 'leaks', { requests: 2_000 });
    expect({ code, errors }).toEqual({ code: 0, errors: '' });
    const { answered, timedOut, left, timers, immediates, collected, grown } = JSON.parse(lines.at(-1) ?? '');
    expect([answered, timedOut, left]).toEqual([2_000, 200, 200]);
    expect([timers, immediates]).toEqual([0, 0]);
    expect(collected).toBe(true);
    expect(grown).toBeLessThan(1_000_000);
  });
});
