import { start } from './lab/child.mjs';
import { compareThroughput, throughputPanels, throughputTable } from './lab/closed-loop.mjs';
import { spread, summary } from './lab/stats.mjs';

const APP = 'watch.mjs';
const VARIANTS = [
  { variant: 'bare', name: 'bare Express' },
  { variant: 'watched', name: 'watch()', ours: true },
];

/** What does the watch cost while nothing blocks, and what does it cost what does? */
export async function measure({ quick, progress }) {
  const results = await compareThroughput({
    app: APP,
    variants: VARIANTS,
    rounds: quick ? 2 : 15,
    amount: quick ? 300 : 6000,
    progress,
  });
  const rounds = quick ? 1 : 20;
  const asleep = await compareIdle({ awake: false, rounds, progress });
  const awake = await compareIdle({ awake: true, rounds, progress });
  const { memory, sample } = await measureSample({ rounds: quick ? 1 : 15, progress });

  return {
    title: 'watch: what looking after the event loop costs',
    how: `Under load: a route that awaits once and answers, 32 connections, each server in its own process on one core,
      taking turns in one run; the median of all rounds, with the middle half in brackets. Idle: CPU time of the whole
      process, the watching thread included, without any request for seconds (asleep) and in the first seconds after one (awake).
      A sample: CPU time that it takes from the thread that blocks, 25 functions deep; a block of one second has twelve.`,
    packages: ['express', 'autocannon'],
    tables: [
      { heading: 'Under load', ...throughputTable(results) },
      {
        heading: 'Idle, CPU time in each second, ms',
        columns: ['', 'asleep', 'awake'],
        rows: VARIANTS.map(({ name }, at) => [name, spread(asleep[at]), spread(awake[at])]),
      },
      {
        heading: 'More',
        columns: ['', ''],
        rows: [
          ['one sample, µs', spread(sample)],
          ['memory, MB', spread(memory)],
        ],
      },
    ],
    panels: throughputPanels(results),
  };
}

/** CPU time in each second of an app, in ms, for each variant; they idle side by side. */
async function compareIdle({ awake, rounds, progress }) {
  progress(awake ? 'awake' : 'asleep');
  const servers = await startAll();
  const used = VARIANTS.map(() => []);
  for (let round = 0; round < rounds; round++) {
    const ask = (server) => server.ask('idle', { awake, port: server.port });
    for (const [at, ms] of (await Promise.all(servers.map(ask))).entries()) used[at].push(ms);
  }
  await stopAll(servers);
  return used.map(summary);
}

async function measureSample({ rounds, progress }) {
  progress('one sample');
  const servers = await startAll();
  const [bare, watched] = await Promise.all(servers.map((server) => server.ask('memory')));
  const sample = summary(await servers[1].ask('sample', rounds));
  await stopAll(servers);
  return { sample, memory: summary([watched - bare]) };
}

const startAll = () => Promise.all(VARIANTS.map(({ variant }) => start(APP, [variant])));
const stopAll = (servers) => Promise.all(servers.map((server) => server.stop()));
