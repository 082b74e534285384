import { parseArgs } from 'node:util';
import { figure, median, sum } from '../lab/stats.mjs';
import { oracle, withoutSize, withSize } from './policies.mjs';
import { play, resultOf, SCENARIOS, tenTimesSlower } from './scenarios.mjs';

/**
 * npm run simulate [-- scenario …]: what offload() would serve with and without `size`, beside an oracle that knows
 * every run time, on the same arrivals. Prints a table, with --json the figures.
 *
 *     --loads 0.5,1,2,4    1 is what the workers can do
 *     --seeds 10           how often, each time with other arrivals
 *     --slower             tells instead how soon all is well after all runs took ten times as long for 20 s
 */
const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    loads: { type: 'string', default: '0.5,1,2,4' },
    seeds: { type: 'string', default: '10' },
    slower: { type: 'boolean', default: false },
    json: { type: 'boolean', default: false },
  },
});
const names = positionals.length > 0 ? positionals : Object.keys(SCENARIOS);
const unknown = names.find((name) => !Object.hasOwn(SCENARIOS, name));
if (unknown !== undefined) {
  console.error(`There is no scenario "${unknown}"; there are ${Object.keys(SCENARIOS).join(', ')}.`);
  process.exit(1);
}
// Other seeds than those it was made with.
const seeds = Array.from({ length: Number(values.seeds) }, (_, n) => 5001 + n);
const policies = { withSize, withoutSize };

const rows = names.flatMap((name) =>
  values.loads.split(',').map((load) => (values.slower ? recover : compare)(name, Number(load))),
);
if (values.json) console.log(JSON.stringify(rows));
else printTable(rows);

/** Answers in time, in percent of the oracle's, and what else became of the calls. */
function compare(name, load) {
  const total = (makePolicy) => {
    const results = seeds.map((seed) => resultOf(play({ name, load, seed, makePolicy })));
    const all = (pick) => sum(results.map(pick));
    return {
      calls: all(({ calls }) => calls),
      inTime: all(({ inTime }) => inTime),
      wrong: all(({ wronglyForSize }) => wronglyForSize),
      toldMs: median(results.map(({ toldMs }) => toldMs)),
      wasted: all(({ wastedMs, spanMs }) => wastedMs / spanMs) / seeds.length,
    };
  };
  const most = total(oracle).inTime;
  const [own, off] = [total(withSize), total(withoutSize)];
  return {
    scenario: name,
    load,
    withoutSize: (100 * off.inTime) / most,
    withSize: (100 * own.inTime) / most,
    wastedWithoutSize: off.wasted,
    wastedWithSize: own.wasted,
    toldMsWithoutSize: off.toldMs,
    toldMsWithSize: own.toldMs,
    wronglyForSizePercent: (100 * own.wrong) / own.calls,
  };
}

/** Seconds until as many calls are in time again as before, less 5 percent, over three seconds; the median. */
function recover(name, load) {
  const row = { scenario: name, load };
  for (const [policy, makePolicy] of Object.entries(policies)) {
    const seconds = seeds.map((seed) => {
      const calls = play({ name, load, seed, makePolicy, lasting: 60_000, slowness: tenTimesSlower });
      const rate = (from, to) => {
        const { inTime, calls: made } = resultOf(calls, from * 1000, to * 1000);
        return inTime / made;
      };
      let after = 0;
      while (after < 17 && rate(40 + after, 43 + after) < 0.95 * rate(5, 20)) after++;
      return after;
    });
    row[policy] = median(seconds);
  }
  return row;
}

function printTable(table) {
  const line = (cells) => console.log(`| ${cells.join(' | ')} |`);
  const columns = Object.keys(table[0]);
  line(columns);
  line(columns.map(() => '---'));
  for (const row of table) line(columns.map((name) => (typeof row[name] === 'string' ? row[name] : figure(row[name]))));
}
