import { offload } from 'express-unblock';
import { connectPool } from 'express-unblock/bullmq';

const { trace, ...options } = JSON.parse(process.argv[2]);
const pool = connectPool({ ...options, idempotent: ['again'] });
const tasks = offload.module(new URL('./tasks.mjs', import.meta.url), { pool });
await pool.ready();
const tell = (message) => process.send?.(message, () => {});

async function outcomeOf({ number, kind, ms, timeout, leaveAfter, bytes }) {
  const controller = new AbortController();
  if (leaveAfter !== undefined) setTimeout(() => controller.abort(new Error('left')), leaveAfter);
  const input = bytes === undefined ? ms : Buffer.alloc(bytes, number % 256);
  const seen = [];
  const onProgress = (step) => seen.push(step);
  const task = { left: 'mark', tight: 'mark' }[kind] ?? kind;
  try {
    const value = await tasks[task].with({ timeout, signal: controller.signal, onProgress })(trace, number, input);
    const isRight =
      kind === 'bulk'
        ? Buffer.alloc(bytes, (number % 256) ^ 1).equals(value)
        : value === `done ${number}` &&
          (kind !== 'steps' || (seen.at(-1) === 200 && seen.every((s, at) => s > (seen[at - 1] ?? 0))));
    return isRight ? 'ok' : `wrong: ${String(value).slice(0, 100)} ${seen}`;
  } catch (error) {
    return error.message === 'left' ? 'left' : (error.code ?? String(error));
  }
}

process.on('message', async (message) => {
  if (message === 'stats') {
    const { workers, busy, queued } = pool.stats();
    tell({ stats: { workers, busy, queued } });
    return;
  }
  if (message === 'close') {
    await pool.close();
    process.disconnect?.();
    return;
  }
  const madeAt = Date.now();
  const outcome = await outcomeOf(message);
  tell({ number: message.number, outcome, madeAt, endedAt: Date.now() });
});
process.once('disconnect', () => process.exit());
tell('ready');
