import { execFile, fork } from 'node:child_process';
import { once } from 'node:events';
import { performance } from 'node:perf_hooks';
import { setTimeout as wait } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { createPool, offload } from 'express-unblock';
import workerpool from 'workerpool';
import { answer } from '../lab/child.mjs';
import { loops } from '../tasks/loops.mjs';

/** A worker's first moments, measured from the process that starts it. */

const file = (name) => fileURLToPath(new URL(name, import.meta.url));

const starts = {
  async fork() {
    const child = fork(file('../tasks/bare.cjs'));
    await once(child, 'message');
    return () => child.kill('SIGKILL');
  },
  async workerpool() {
    const pool = workerpool.pool(file('../tasks/workerpool.mjs'), { workerType: 'process', maxWorkers: 1 });
    await pool.exec('noop');
    return () => pool.terminate(true);
  },
  async ours() {
    const pool = createPool({ workers: 1 });
    await pool.ready();
    return () => pool.close({ grace: 0 });
  },
};

/** Aborts a loop after so long, runs another call, and tells how long that took, and whether the process is the same. */
async function abort(pool, loop, after) {
  const pidOf = offload(() => process.pid, { pool });
  const before = await pidOf();
  const stop = new AbortController();
  const call = offload(loop, { pool })
    .with({ signal: stop.signal })()
    .catch(() => {});
  await wait(after);
  const from = performance.now();
  stop.abort();
  const pid = await pidOf();
  const ms = performance.now() - from;
  await call;
  return { ms, killed: pid !== before };
}

answer({
  /** Until a process takes calls. */
  async ready(contender) {
    const from = performance.now();
    const stop = await starts[contender]();
    const ms = performance.now() - from;
    await stop();
    return ms;
  },

  /** Of a package, in a process of its own. */
  async require(name) {
    const code = `const from = performance.now(); require(${JSON.stringify(name)}); console.log(performance.now() - from)`;
    const { stdout } = await promisify(execFile)(process.execPath, ['--eval', code], { cwd: file('.') });
    return Number(stdout);
  },

  /** Of one of the first calls of a new worker, or of one that has done a hundred. */
  async interrupt({ kind, warm, after }) {
    const pool = createPool({ workers: 1 });
    await pool.ready();
    if (warm) for (let n = 0; n < 5; n++) await abort(pool, loops[kind], 20);
    const result = await abort(pool, loops[kind], after);
    await pool.close({ grace: 0 });
    return result;
  },
});
