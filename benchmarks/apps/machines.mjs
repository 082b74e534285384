import { fork } from 'node:child_process';
import { once } from 'node:events';
import { setTimeout as wait } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { Queue, QueueEvents, Worker } from 'bullmq';
import { createPool, offload } from 'express-unblock';
import { connectPool, serve } from 'express-unblock/bullmq';
import { answer } from '../lab/child.mjs';
import { echo, noop } from '../tasks/tasks.mjs';

/** One way to have a task run elsewhere, measured from the process that asks for it; what serves it is a process of its own. */

const [contender, url, role] = process.argv.slice(2);
const modules = new URL('../tasks/tasks.mjs', import.meta.url);
const { hostname, port } = new URL(url);
const bull = { connection: { host: hostname, port: Number(port), maxRetriesPerRequest: null } };

const contenders = {
  local: {
    open() {
      const pool = createPool({ workers: 1, minWorkers: 1 });
      return offloaded(pool);
    },
  },
  far: {
    serve: () =>
      serve({ connection: url, queue: 'bench', modules: [modules], workers: 1, reclaim: 'interrupt' }).ready(),
    async open() {
      const pool = connectPool({ connection: url, queue: 'bench' });
      await pool.ready();
      return offloaded(pool);
    },
  },
  bullmq: {
    serve: () =>
      new Worker('plain', ({ name, data }) => (name === 'echo' ? echo(data) : noop()), bull).waitUntilReady(),
    async open() {
      const queue = new Queue('plain', bull);
      const events = new QueueEvents('plain', bull);
      events.setMaxListeners(0);
      await events.waitUntilReady();
      // To remove a job when it is done would make waitUntilFinished() reject now and then.
      const options = { removeOnComplete: { count: 1000 } };
      return { run: async (name, arg) => (await queue.add(name, arg, options)).waitUntilFinished(events) };
    },
  },
};

function offloaded(pool) {
  const all = offload.module(modules, { pool, reclaim: 'interrupt' });
  return { run: (name, arg, signal) => (signal ? all[name].with({ signal })(arg) : all[name](arg)) };
}

let opened;

async function open() {
  if (contenders[contender].serve) {
    const child = fork(fileURLToPath(import.meta.url), [contender, url, 'serve'], { stdio: 'ignore' });
    child.unref();
    process.once('exit', () => child.kill('SIGKILL'));
    await once(child, 'message');
  }
  opened = await contenders[contender].open();
  for (let n = 0; n < 100; n++) await opened.run('noop', 0);
}

async function timed(run) {
  const began = performance.now();
  await run();
  return performance.now() - began;
}

const methods = {
  /** Milliseconds for each of so many calls, one after the other. */
  async roundTrips({ task, bytes = 0, count }) {
    const arg = 'x'.repeat(bytes);
    const times = [];
    for (let n = 0; n < count; n++) times.push(await timed(() => opened.run(task, arg)));
    return times;
  },
  /** Calls a second, with so many under way at once. */
  async throughput({ atOnce, count }) {
    let left = count;
    const work = async () => {
      while (left-- > 0) await opened.run('noop', 0);
    };
    const ms = await timed(() => Promise.all(Array.from({ length: atOnce }, work)));
    return count / (ms / 1000);
  },
  /** From an abort until the next task is done. */
  async reclaims({ count }) {
    const times = [];
    for (let n = 0; n < count; n++) {
      const controller = new AbortController();
      const given = opened.run('spin', 10_000, controller.signal).catch(() => {});
      await wait(50);
      times.push(
        await timed(async () => {
          controller.abort();
          await given;
          await opened.run('noop', 0);
        }),
      );
    }
    return times;
  },
};

if (role === 'serve') {
  await contenders[contender].serve();
  process.send('ready');
  process.once('disconnect', () => process.exit());
} else {
  await open();
  answer(methods);
}
