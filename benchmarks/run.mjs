import { fileURLToPath } from 'node:url';
import { needCurrentNode } from './lab/node.mjs';
import { hideProgress, machine, showProgress, versions, write } from './lab/report.mjs';

/**
 * npm run bench [-- name …]: answers each question by measuring, and writes a table and a picture of it.
 *
 * Figures are those of a current Node, which is fetched where this one is older.
 * BENCH_QUICK=1 shows only that everything works: a minute in all, on this Node, and figures that mean nothing.
 * BENCH_RESULTS names another directory to write to.
 */
const QUESTIONS = ['timeout', 'limit-input', 'offload', 'load', 'watch', 'machines'];
const LONGEST_MS = 60 * 60_000;

const names = process.argv.length > 2 ? process.argv.slice(2) : QUESTIONS;
const unknown = names.find((name) => !QUESTIONS.includes(name));
if (unknown !== undefined) {
  console.error(`There is no benchmark "${unknown}"; there are ${QUESTIONS.join(', ')}.`);
  process.exit(1);
}

const quick = process.env.BENCH_QUICK === '1';
if (!quick) await needCurrentNode();
const directory = process.env.BENCH_RESULTS ?? fileURLToPath(new URL('results', import.meta.url));

for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => process.exit(1));
setTimeout(() => {
  console.error('The benchmarks took too long; giving up.');
  process.exit(1);
}, LONGEST_MS).unref();

console.log(`${machine()}; ${versions([])}\n`);
for (const name of names) {
  const began = performance.now();
  const { measure } = await import(`./${name}.mjs`);
  const result = await measure({ quick, progress: (step) => showProgress(`${name}: ${step}`) });
  hideProgress();
  console.log(write(directory, name, result));
  console.log(`(${name}: ${Math.round((performance.now() - began) / 1000)} s)\n`);
}
process.exit();
