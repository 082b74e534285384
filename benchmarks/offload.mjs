import { start } from './lab/child.mjs';
import { figure, quantile, spread, summary } from './lab/stats.mjs';
import { loops } from './tasks/loops.mjs';

const CONTENDERS = [
  { contender: 'ours', name: 'offload()', ours: true, reclaims: 20 },
  { contender: 'workerpool', name: 'workerpool (process)', reclaims: 1 },
  { contender: 'piscina', name: 'piscina (thread)', reclaims: 8 },
  { contender: 'tinypool', name: 'tinypool (thread)', reclaims: 8 },
];
const KILLING = [
  { contender: 'ours-kill', name: "offload(), reclaim: 'kill'", ours: true, reclaims: 4 },
  { contender: 'ours-spare', name: '… with spare: 1', ours: true, reclaims: 10 },
];
const REQUIRED = ['express-unblock', 'connect-timeout', 'express', 'workerpool', 'piscina', 'tinypool'];
const READY = [
  ['fork', 'a bare fork'],
  ['ours', 'ready() of offload()'],
  ['workerpool', 'workerpool (process)'],
];
/** After so many milliseconds loops are aborted. */
const AFTER = [1, 5, 20, 60, 150, 400];
const PAYLOADS = [
  { kind: 'string', bytes: 65_536, name: '64 KB string' },
  { kind: 'buffer', bytes: 65_536, name: '64 KB Buffer' },
  { kind: 'string', bytes: 1_048_576, name: '1 MB string' },
  { kind: 'buffer', bytes: 1_048_576, name: '1 MB Buffer' },
];

/** How soon is the CPU back from a computation that was given up, and what does moving work away cost? */
export async function measure({ quick, progress }) {
  const rounds = quick ? 1 : 10;
  const lasting = quick ? 40 : 250;

  const everyone = [...CONTENDERS, ...KILLING];
  const sides = [];
  let colds, memories, reclaims, trips;
  try {
    for (const { contender } of everyone) {
      const side = await start('offload.mjs', [contender], { execArgv: ['--expose-gc'] });
      sides.push(side);
      await side.ask('open');
    }
    /** What each of the contenders answers, in each round. */
    const inTurns = async (what, contenders, rounds, ask) => {
      const answers = contenders.map(() => []);
      for (let round = 0; round < rounds; round++) {
        for (const [at, contender] of contenders.entries()) {
          progress(`${what}, ${contender.name}, round ${round + 1} of ${rounds}`);
          answers[at].push(await ask(sides[at], contender));
        }
      }
      return answers;
    };
    colds = await inTurns('cold start', CONTENDERS, rounds, (side) => side.ask('coldStart'));
    memories = await inTurns('memory', CONTENDERS, quick ? 1 : 3, (side) => side.ask('memory', quick ? 1 : 4));
    reclaims = await inTurns('reclaim', everyone, rounds, (side, { reclaims }) => side.ask('reclaim', reclaims));
    trips = await inTurns('round trips', CONTENDERS, quick ? 1 : 7, async (side) => {
      const measured = [];
      const ask = async (question) => measured.push(await side.ask('roundTrips', { lasting, atOnce: 1, ...question }));
      await ask({ task: 'noop' });
      await ask({ task: 'noop', atOnce: 64 });
      for (const payload of PAYLOADS) await ask({ task: 'echo', payload });
      return measured;
    });
  } finally {
    for (const side of sides) await side.stop();
  }

  const all = CONTENDERS.map(({ name, ours }, at) => {
    const [one, many, ...payloads] = trips[at][0].map((_, n) => ({
      perSecond: summary(trips[at].map((round) => round[n].perSecond)),
      busyMs: summary(trips[at].map((round) => round[n].busyMs)),
    }));
    const memory = (kind) => summary(memories[at].map((one) => one[kind]));
    return { name, ours, one, many, payloads, cold: summary(colds[at]), pss: memory('pss'), rss: memory('rss') };
  });
  const reclaimed = everyone.map(({ name, ours }, at) => {
    const samples = reclaims[at].flat();
    return { name, ours, ...summary(samples), p99: quantile(samples, 0.99), worst: Math.max(...samples) };
  });

  const first = await measureStarts({ quick, progress });

  return {
    title: 'offload: the CPU back after an abort, and the price of moving work away',
    how: `One worker each, warm, with default settings otherwise; each contender in a process of its own, taking turns in
      one run. The median, with the middle half in brackets. Reclaiming: a loop is aborted and the next task called at
      once; the time counts until that one is done. The event loop's time is what Node says the calling process was
      active for. Memory counts the calling process and its children together, divided by the workers added; PSS divides
      shared pages among those who share them. A Buffer comes back from workerpool's default as a plain object.`,
    packages: ['workerpool', 'piscina', 'tinypool'],
    tables: [
      {
        heading: 'From an abort until the next task is done, in ms',
        columns: ['', 'p50', 'p99', 'worst', 'aborts'],
        rows: reclaimed.map(({ name, value, p99, worst, values }) => [
          name,
          ...[value, p99, worst].map(figure),
          values.length,
        ]),
      },
      {
        heading: 'Calls of a function that does nothing, per second',
        columns: ['', 'one at a time', '64 at once', 'event loop µs/call, 64 at once'],
        rows: all.map(({ name, one, many }) => [
          name,
          spread(one.perSecond),
          spread(many.perSecond),
          figure(many.busyMs.value * 1000),
        ]),
      },
      {
        heading: 'There and back, per second, one at a time',
        columns: ['', ...PAYLOADS.map(({ name }) => name)],
        rows: all.map(({ name, payloads }) => [name, ...payloads.map(({ perSecond }) => spread(perSecond))]),
      },
      {
        heading: 'The same: ms of the event loop per call',
        columns: ['', ...PAYLOADS.map(({ name }) => name)],
        rows: all.map(({ name, payloads }) => [name, ...payloads.map(({ busyMs }) => spread(busyMs))]),
      },
      {
        heading: 'A worker',
        columns: ['', 'cold start, ms', 'idle, MB (PSS)', 'idle, MB (RSS)'],
        rows: all.map(({ name, cold, pss, rss }) => [name, spread(cold), spread(pss), spread(rss)]),
      },
      ...first,
    ],
    panels: [
      panel('From an abort to the next task done, ms (less is better)', reclaimed, (row) => row),
      panel('Calls per second, one at a time', all, ({ one }) => one.perSecond),
      panel('Calls per second, 64 at once', all, ({ many }) => many.perSecond),
      panel('1 MB string there and back, per second', all, ({ payloads }) => payloads[2].perSecond),
      panel('… and ms of the event loop it takes (less is better)', all, ({ payloads }) => payloads[2].busyMs),
      panel('MB per idle worker, PSS (less is better)', all, ({ pss }) => pss),
    ],
  };
}

/** A worker's first moments: its start, what is loaded for it, and interrupts of its first calls. */
async function measureStarts({ quick, progress }) {
  const rounds = quick ? 1 : 15;
  const side = await start('starts.mjs');
  const kinds = Object.keys(loops).slice(0, quick ? 2 : undefined);
  const times = (names, question) => repeat(names, rounds, (name) => side.ask(question, name), progress, question);
  const interrupts = async (kind, warm) => {
    const all = [];
    for (let round = 0; round < (quick ? 1 : 4); round++) {
      for (const after of quick ? [20] : AFTER) {
        progress(`interrupts, ${kind}, ${warm ? 'warmed' : 'fresh'}, after ${after} ms`);
        all.push(await side.ask('interrupt', { kind, warm, after }));
      }
    }
    return all;
  };
  try {
    const ready = await times(
      READY.map(([contender]) => contender),
      'ready',
    );
    const required = await times(REQUIRED, 'require');
    const rows = [];
    for (const kind of kinds) {
      rows.push([kind, ...toldOf(await interrupts(kind, false)), ...toldOf(await interrupts(kind, true))]);
    }
    return [
      {
        heading: 'Until a process takes calls, in ms',
        columns: ['', 'ms'],
        rows: READY.map(([, name], at) => [name, spread(summary(ready[at]))]),
      },
      {
        heading: 'require(), in ms',
        columns: ['', 'ms'],
        rows: REQUIRED.map((name, at) => [name, spread(summary(required[at]))]),
      },
      {
        heading: 'Interrupts of loops: until the next task is done, in ms, and how many workers were killed instead',
        columns: ['', 'fresh, p50', 'p99', 'killed', 'warmed, p50', 'p99', 'killed'],
        rows,
      },
    ];
  } finally {
    await side.stop();
  }
}

function toldOf(all) {
  const ms = all.map((one) => one.ms);
  const killed = all.filter((one) => one.killed).length;
  return [figure(quantile(ms, 0.5)), figure(quantile(ms, 0.99)), `${killed} of ${all.length}`];
}

/** In turns, so that what else the machine does hits all alike. */
async function repeat(names, rounds, ask, progress, what) {
  const answers = names.map(() => []);
  for (let round = 0; round < rounds; round++) {
    for (const [at, name] of names.entries()) {
      progress(`${what}, ${name}, round ${round + 1} of ${rounds}`);
      answers[at].push(await ask(name));
    }
  }
  return answers;
}

const panel = (title, rows, pick) => ({
  title,
  rows: rows.map((row) => ({ name: row.name, ours: row.ours, ...pick(row) })),
});
