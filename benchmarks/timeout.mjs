import { compareThroughput, throughputPanels, throughputTable } from './lab/closed-loop.mjs';

const VARIANTS = [
  { variant: 'bare', name: 'bare Express' },
  { variant: 'ours', name: 'timeout()', ours: true },
  { variant: 'express-timeout-handler', name: 'express-timeout-handler' },
  { variant: 'connect-timeout', name: 'connect-timeout' },
];

/** What does a deadline on every request cost, when none passes? */
export async function measure({ quick, progress }) {
  const results = await compareThroughput({
    app: 'timeout.mjs',
    variants: VARIANTS,
    rounds: quick ? 2 : 15,
    amount: quick ? 300 : 6000,
    progress,
  });
  return {
    title: 'timeout: what a deadline on every request costs',
    how: `A route that answers at once, 32 connections, each server in its own process on one core, taking turns in one
      run. The median of all rounds, with the middle half in brackets. CPU time is the steadier figure on a busy machine.`,
    packages: ['express', 'connect-timeout', 'express-timeout-handler', 'autocannon'],
    tables: [throughputTable(results)],
    panels: throughputPanels(results),
  };
}
