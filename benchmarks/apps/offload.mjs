import { readdirSync, readFileSync } from 'node:fs';
import { performance } from 'node:perf_hooks';
import { setTimeout as wait } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { createPool, offload } from 'express-unblock';
import Piscina from 'piscina';
import Tinypool from 'tinypool';
import workerpool from 'workerpool';
import { answer } from '../lab/child.mjs';
import * as tasks from '../tasks/tasks.mjs';

/** One contender's pool, measured from the process that uses it. */

const file = (name) => fileURLToPath(new URL(`../tasks/${name}`, import.meta.url));

const contenders = {
  ours: (workers) => ours(workers, 'interrupt'),
  'ours-kill': (workers) => ours(workers, 'kill'),
  'ours-spare': (workers) => ours(workers, 'kill', 1),
  workerpool(workers) {
    const pool = workerpool.pool(file('workerpool.mjs'), {
      workerType: 'process',
      minWorkers: workers,
      maxWorkers: workers,
    });
    return {
      run(task, arg, signal) {
        const call = pool.exec(task, [arg]);
        signal?.addEventListener('abort', () => void call.cancel());
        return call;
      },
      close: () => pool.terminate(true),
    };
  },
  piscina: (workers) => threads(Piscina, workers),
  tinypool: (workers) => threads(Tinypool, workers),
};

function ours(workers, reclaim, spare = 0) {
  const pool = createPool({ workers, minWorkers: workers, spare });
  const run = {};
  for (const [name, task] of Object.entries(tasks)) run[name] = offload(task, { pool, reclaim });
  return {
    run: (task, arg, signal) => (signal ? run[task].with({ signal })(arg) : run[task](arg)),
    /** Aborts come no faster than workers start. */
    rest: () => pool.ready(),
    close: () => pool.close(),
  };
}

function threads(Pool, workers) {
  const pool = new Pool({ filename: file('tasks.mjs'), minThreads: workers, maxThreads: workers });
  return { run: (name, arg, signal) => pool.run(arg, { name, signal }), close: () => pool.destroy() };
}

const create = contenders[process.argv[2]];
let pool;

answer({
  async open() {
    pool = create(1);
    await pool.run('noop');
  },

  /** From the abort of a loop until the next task is done, each time. */
  async reclaim(times) {
    const samples = [];
    for (let n = 0; n < times; n++) {
      await pool.rest?.();
      await pool.run('noop');
      const aborter = new AbortController();
      const spinning = pool.run('spin', 10_000, aborter.signal).then(
        () => false,
        () => true,
      );
      await wait(15);
      const from = performance.now();
      aborter.abort();
      await pool.run('noop');
      samples.push(performance.now() - from);
      if (!(await spinning)) throw new Error('The loop ended by itself');
    }
    return samples;
  },

  /** Calls a second with so many under way, and how long each keeps this event loop busy. */
  async roundTrips({ task, payload, atOnce, lasting }) {
    const arg = payload && make(payload);
    await pool.run(task, arg);
    let calls = 0;
    const before = performance.eventLoopUtilization();
    const from = performance.now();
    const lane = async () => {
      while (performance.now() - from < lasting) {
        await pool.run(task, arg);
        calls++;
      }
    };
    await Promise.all(Array.from({ length: atOnce }, lane));
    const seconds = (performance.now() - from) / 1000;
    return { perSecond: calls / seconds, busyMs: performance.eventLoopUtilization(before).active / calls };
  },

  /** From a pool's making to the first result. */
  async coldStart() {
    const from = performance.now();
    const cold = create(1);
    await cold.run('noop');
    const ms = performance.now() - from;
    await cold.close();
    return ms;
  },

  /** What each idle worker adds to this process and its children, in MB. */
  async memory(workers) {
    const before = await settledMemory();
    const idle = create(workers);
    await Promise.all(Array.from({ length: workers }, () => idle.run('spin', 300)));
    const after = await settledMemory();
    await idle.close();
    return { pss: (after.pss - before.pss) / workers, rss: (after.rss - before.rss) / workers };
  },
});

function make({ kind, bytes }) {
  return kind === 'string' ? 'x'.repeat(bytes) : Buffer.alloc(bytes, 'x');
}

async function settledMemory() {
  await wait(300);
  globalThis.gc();
  await wait(100);
  const all = [process.pid, ...descendants(process.pid)].map(memoryOf);
  return { pss: all.reduce((sum, { pss }) => sum + pss, 0), rss: all.reduce((sum, { rss }) => sum + rss, 0) };
}

/** PSS divides what processes share among them, RSS counts it for each. Linux only. */
function memoryOf(pid) {
  try {
    const text = readFileSync(`/proc/${pid}/smaps_rollup`, 'utf8');
    const megabytes = (name) => Number(new RegExp(`^${name}: +(\\d+)`, 'm').exec(text)[1]) / 1000;
    return { pss: megabytes('Pss'), rss: megabytes('Rss') };
  } catch {
    return { pss: Number.NaN, rss: Number.NaN };
  }
}

function descendants(pid) {
  try {
    const children = readdirSync(`/proc/${pid}/task`).flatMap((thread) =>
      readFileSync(`/proc/${pid}/task/${thread}/children`, 'utf8').split(' ').filter(Boolean),
    );
    return children.flatMap((child) => [child, ...descendants(child)]);
  } catch {
    return [];
  }
}
