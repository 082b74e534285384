import { compareThroughput, throughputPanels } from './lab/closed-loop.mjs';
import { compareInProcess } from './lab/in-process.mjs';
import { CURRENT, nodeOf } from './lab/node.mjs';
import { figure, spread } from './lab/stats.mjs';

const BARE = { variant: 'bare', name: 'bare Express' };
const MIDDLEWARES = [
  { variant: 'ours', name: 'timeout()', ours: true },
  { variant: 'express-timeout-handler', name: 'express-timeout-handler' },
  { variant: 'connect-timeout', name: 'connect-timeout' },
];
const PARTS = [
  { variant: 'context', name: 'AsyncLocalStorage alone' },
  { variant: 'timer', name: "a timer and a 'close' listener" },
];
const NODES = [24, 26, 22, 20];

/** What does a deadline on every request cost, when none passes? */
export async function measure({ quick, progress }) {
  const nodes = quick ? [Number.parseInt(process.versions.node, 10)] : NODES;
  const columns = [];
  for (const node of nodes) {
    columns.push(
      await compareInProcess({
        app: 'timeout.mjs',
        variants: [BARE, ...MIDDLEWARES, ...PARTS],
        processes: quick ? 1 : node < CURRENT ? 5 : 15, // The older ones take five times as long.
        rounds: quick ? 2 : 5,
        amount: quick ? 300 : 3000,
        execPath: await nodeOf(node),
        progress: (step) => progress(`Node ${node}: ${step}`),
      }),
    );
  }
  const results = await compareThroughput({
    app: 'timeout.mjs',
    variants: [BARE, ...MIDDLEWARES],
    rounds: quick ? 2 : 15,
    amount: quick ? 300 : 6000,
    progress,
  });
  const [first] = columns;
  return {
    title: 'timeout: what a deadline on every request costs',
    how: `A route that awaits once and answers, 32 requests under way at once, each app in its own process on one core,
      taking turns in one run. In process: real request and response objects without a network, CPU time; 15 processes
      of each app (5 on Node 20 and 22), the median of their differences from a bare Express beside them, with the middle half in brackets. Over the network only the
      ratio tells: there, one request scatters by more than all of these cost. On Node 20 and 22 the async context that
      \`currentDeadline()\` and offloaded calls need is the larger part.`,
    packages: ['express', 'connect-timeout', 'express-timeout-handler', 'autocannon'],
    tables: [
      {
        heading: 'Added to a request, in process, µs',
        columns: ['', ...nodes.map((node) => `Node ${node}`)],
        rows: first.map(({ name }, at) => [
          name,
          ...columns.map((column) => (at === 0 ? `(${figure(column[0].cost.value)})` : spread(column[at].adds))),
        ]),
      },
      {
        heading: 'Over the network',
        columns: ['', 'requests/s', 'kept'],
        rows: results.map(({ name, perSecond, keeps }, at) => [
          name,
          spread(perSecond),
          at === 0 ? '' : `${figure(keeps * 100)}%`,
        ]),
      },
    ],
    panels: [
      {
        title: `Added to a request, in process, Node ${nodes[0]}, µs (less is better)`,
        rows: first.slice(1).map(({ name, ours, adds }) => ({ name, ours, ...adds })),
      },
      throughputPanels(results)[0],
    ],
  };
}
