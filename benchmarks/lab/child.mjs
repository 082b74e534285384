import { execFileSync, fork } from 'node:child_process';
import { once } from 'node:events';
import { availableParallelism } from 'node:os';
import { setTimeout as wait } from 'node:timers/promises';

/** Whatever is measured lives in a process of its own and is asked over IPC, so that nothing disturbs its figures. */

const ANSWER_WITHIN_MS = 60_000;
const running = new Set();

process.once('exit', () => {
  for (const child of running) child.kill('SIGKILL');
});

/**
 * Starts a file that ends in `answer(methods)`.
 *
 * @param options.core pins the process to one core where `taskset` exists
 * @param options.execPath another Node than the one that runs this; see `nodeOf`
 */
export async function start(file, args = [], { core, env = {}, execArgv = [], execPath = process.execPath } = {}) {
  const child = fork(new URL(`../apps/${file}`, import.meta.url), args, {
    env: { ...process.env, NODE_ENV: 'production', ...env },
    execArgv,
    execPath,
    serialization: 'advanced',
    stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
  });
  let complaints = '';
  child.stderr.on('data', (text) => {
    complaints += text;
  });
  running.add(child);
  const exited = once(child, 'exit').then(() => {
    running.delete(child);
    throw new Error(`${file} ${args.join(' ')} exited\n${complaints}`);
  });
  exited.catch(() => {});
  if (core !== undefined) pin(child.pid, core);

  async function answered() {
    const [message] = await Promise.race([once(child, 'message'), exited, tooLong(`${file} ${args.join(' ')}`)]);
    if (message.error !== undefined) throw new Error(message.error);
    return message.result;
  }
  const ready = await answered();

  return {
    ...ready,
    /** One question at a time. */
    ask(method, ...params) {
      child.send({ method, params });
      return answered();
    },
    async stop() {
      if (child.connected) child.disconnect();
      const patience = setTimeout(() => child.kill('SIGKILL'), 2000);
      await exited.catch(() => {});
      clearTimeout(patience);
    },
  };
}

/** In the process that was started: says that it is ready, answers what it is asked, and ends with its parent. */
export function answer(methods, ready = {}) {
  process.on('message', async ({ method, params }) => {
    try {
      process.send({ result: await methods[method](...params) });
    } catch (error) {
      process.send({ error: error?.stack ?? String(error) });
    }
  });
  process.on('disconnect', () => process.exit());
  process.send({ result: ready });
}

async function tooLong(name) {
  await wait(ANSWER_WITHIN_MS, undefined, { ref: false });
  throw new Error(`${name} did not answer within ${ANSWER_WITHIN_MS} ms`);
}

/** Keeps the measured server on one core and this process, the client, on another; undone by the function returned. */
export function pinClient() {
  const cores = availableParallelism();
  if (cores < 2 || !pin(process.pid, 1)) return () => {};
  return () => pin(process.pid, `0-${cores - 1}`);
}

function pin(pid, cores) {
  try {
    execFileSync('taskset', ['-acp', String(cores), String(pid)], { stdio: 'ignore' });
    return true;
  } catch {
    return false; // Not Linux, or not allowed to: the figures are noisier.
  }
}
