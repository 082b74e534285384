/**
 * Starts a consumer's app on the Node this runs on, and asks of it what users would:
 *
 *     node check.mjs <app.js>
 */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { text } from 'node:stream/consumers';
import { setTimeout as wait } from 'node:timers/promises';

const app = spawn(process.execPath, [process.argv[2]], { stdio: ['ignore', 'pipe', 'pipe'] });
const exit = once(app, 'exit');
const errors = text(app.stderr);
const patience = setTimeout(() => app.kill('SIGKILL'), 60_000);

try {
  const [port] = await Promise.race([once(app.stdout, 'data'), exit]);
  const ask = (path, options) => fetch(`http://localhost:${Number(port)}${path}`, options);
  const count = (words) =>
    ask('/count', {
      method: 'POST',
      headers: { 'Content-Type': 'application/json' },
      body: JSON.stringify({ text: words }),
    });

  await offloadsFunctions(ask);
  const worker = await offloadsModules(count);
  await endsWhatTakesTooLong(ask);
  await refusesWhatIsTooBig(count);
  await exitsByItself(worker);
} catch (error) {
  app.kill('SIGKILL');
  console.error(error, await errors);
  process.exitCode = 1;
} finally {
  clearTimeout(patience);
}

async function offloadsFunctions(ask) {
  const response = await ask('/repeat/la');
  assert.deepEqual([response.status, await response.text()], [200, 'lalala']);
}

async function offloadsModules(count) {
  const { words, pid } = await (await count('to be or not to be')).json();
  assert.equal(words, 6);
  assert.notEqual(pid, app.pid);
  return pid;
}

async function endsWhatTakesTooLong(ask) {
  const answers = [];
  await Promise.all([
    ask('/endless').then(async (response) => answers.push((await response.json()).code)),
    ask('/ping').then(async (response) => answers.push(await response.text())),
  ]);
  assert.deepEqual(answers, ['pong', 'ERR_UNBLOCK_TIMEOUT']);
}

async function refusesWhatIsTooBig(count) {
  for (const length of [101, 2000]) {
    const response = await count('x'.repeat(length));
    assert.deepEqual([response.status, (await response.json()).code], [413, 'ERR_UNBLOCK_TOO_LARGE']);
  }
}

async function exitsByItself(worker) {
  app.kill('SIGTERM');
  assert.deepEqual(await exit, [0, null]);
  assert.equal(await errors, '');
  for (let waited = 0; isAlive(worker); waited += 50) {
    assert.ok(waited < 2000, 'the worker outlived its app');
    await wait(50);
  }
}

function isAlive(pid) {
  try {
    return process.kill(pid, 0);
  } catch {
    return false;
  }
}
