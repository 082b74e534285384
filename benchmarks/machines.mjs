import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { RedisServer } from './chaos/machines/processes.mjs';
import { start } from './lab/child.mjs';
import { figure, quantile, spread, summary } from './lab/stats.mjs';

const CONTENDERS = [
  { contender: 'local', name: 'a local pool', ours: true, stops: true },
  { contender: 'far', name: 'connectPool(), through Redis', ours: true, stops: true },
  { contender: 'bullmq', name: 'BullMQ, waitUntilFinished()', stops: false },
];
const PAYLOAD = 65_536;

/** What does it cost to have a call run on another machine? */
export async function measure({ quick, progress }) {
  const rounds = quick ? 2 : 10;
  const count = quick ? 20 : 100;
  const directory = mkdtempSync(path.join(os.tmpdir(), 'bench-redis-'));
  const redis = new RedisServer(directory, false);
  const sides = [];
  const measured = CONTENDERS.map(() => ({ noop: [], payload: [], perSecond: [], reclaims: [] }));
  try {
    await redis.start();
    for (const { contender } of CONTENDERS) sides.push(await start('machines.mjs', [contender, redis.url]));
    for (let round = 0; round < rounds; round++) {
      for (const [at, { name, stops }] of CONTENDERS.entries()) {
        progress(`${name}, round ${round + 1} of ${rounds}`);
        const [side, seen] = [sides[at], measured[at]];
        seen.noop.push(...(await side.ask('roundTrips', { task: 'noop', count })));
        seen.payload.push(...(await side.ask('roundTrips', { task: 'echo', bytes: PAYLOAD, count: count / 4 })));
        seen.perSecond.push(await side.ask('throughput', { atOnce: 64, count: count * 6 }));
        if (stops) seen.reclaims.push(...(await side.ask('reclaims', { count: quick ? 2 : 10 })));
      }
    }
  } finally {
    for (const side of sides) await side.stop();
    await redis.kill();
    rmSync(directory, { recursive: true, force: true });
  }

  const rows = CONTENDERS.map(({ name, ours }, at) => ({ name, ours, ...measured[at] }));
  const p99 = (values) => figure(quantile(values, 0.99));
  const version = execFileSync('redis-server', ['--version'], { encoding: 'utf8' }).match(/v=(\S+)/)[1];
  return {
    title: 'Calls on other machines',
    how: `One worker in each case, and Redis ${version} on the same machine: no network is in these figures, and three
      times its round trip comes on top of each call through Redis. All take turns. The payload is a string, there and
      back. Stopping: a loop is aborted and the next task called at once; the time counts until that one is done. Plain
      BullMQ cannot stop what runs in another process.`,
    packages: ['bullmq', 'ioredis'],
    tables: [
      {
        columns: ['', 'no-op, ms', 'p99', '64 KB, ms', 'per second, 64 at once', 'abort to next done, ms', 'p99'],
        rows: rows.map(({ name, noop, payload, perSecond, reclaims }) => [
          name,
          spread(summary(noop)),
          p99(noop),
          spread(summary(payload)),
          spread(summary(perSecond)),
          ...(reclaims.length > 0 ? [spread(summary(reclaims)), p99(reclaims)] : ['never', 'never']),
        ]),
      },
    ],
    panels: [
      panel('A call that does nothing, ms (less is better)', rows, ({ noop }) => noop),
      panel('64 KB there and back, ms (less is better)', rows, ({ payload }) => payload),
      panel('Calls per second, 64 at once', rows, ({ perSecond }) => perSecond),
      panel(
        'From an abort to the next task done, ms (less is better)',
        rows.filter(({ reclaims }) => reclaims.length > 0),
        ({ reclaims }) => reclaims,
      ),
    ],
  };
}

const panel = (title, rows, pick) => ({
  title,
  rows: rows.map((row) => ({ name: row.name, ours: row.ours, ...summary(pick(row)) })),
});
