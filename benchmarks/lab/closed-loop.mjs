import autocannon from 'autocannon';
import { pinClient, start } from './child.mjs';
import { figure, median, spread, summary } from './stats.mjs';

/**
 * What each variant of an app serves and costs. All run side by side in one process each, on one core, and take turns,
 * so that whatever else the machine does hits all alike. Ratios are taken within a round, against the first variant.
 */
export async function compareThroughput({ app, variants, request = {}, rounds, amount, progress }) {
  const unpin = pinClient();
  const servers = [];
  try {
    for (const { variant } of variants) servers.push(await start(app, [variant], { core: 0 }));
    for (const server of servers) await shoot(server, request, amount);

    const taken = variants.map(() => []);
    for (let round = 0; round < rounds; round++) {
      for (let n = 0; n < servers.length; n++) {
        const at = (round + n) % servers.length; // Nobody always follows the same one.
        progress(`${variants[at].name}, round ${round + 1} of ${rounds}`);
        taken[at].push(await shoot(servers[at], request, amount));
      }
    }
    return variants.map(({ name, ours }, at) => ({
      name,
      ours,
      perSecond: summary(taken[at].map(({ perSecond }) => perSecond)),
      cpu: summary(taken[at].map(({ cpuMicroseconds }) => cpuMicroseconds)),
      keeps: median(taken[at].map(({ perSecond }, round) => perSecond / taken[0][round].perSecond)),
      adds: median(taken[at].map(({ cpuMicroseconds }, round) => cpuMicroseconds - taken[0][round].cpuMicroseconds)),
    }));
  } finally {
    for (const server of servers) await server.stop();
    unpin();
  }
}

async function shoot(server, request, amount) {
  await server.ask('begin');
  const { errors, non2xx } = await autocannon({
    url: `http://127.0.0.1:${server.port}/`,
    connections: 32,
    sampleInt: 50, // How often it looks whether it is done.
    amount,
    ...request,
  });
  if (errors + non2xx > 0) throw new Error(`${errors} errors and ${non2xx} failures under load`);
  return server.ask('end');
}

export const throughputTable = (results) => ({
  columns: ['', 'requests/s', 'kept', 'CPU µs/request', 'added'],
  rows: results.map(({ name, perSecond, cpu, keeps, adds }, at) => [
    name,
    spread(perSecond),
    at === 0 ? '' : `${figure(keeps * 100)}%`,
    spread(cpu),
    at === 0 ? '' : `${figure(adds)} µs`,
  ]),
});

export const throughputPanels = (results) => [
  {
    title: 'Requests per second (more is better)',
    rows: results.map(({ name, ours, perSecond }) => ({ name, ours, ...perSecond })),
  },
  {
    title: "Server's CPU time per request, µs (less is better)",
    rows: results.map(({ name, ours, cpu }) => ({ name, ours, ...cpu })),
  },
];
