import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { availableParallelism, cpus, release, totalmem, type } from 'node:os';
import path from 'node:path';
import { picture } from './chart.mjs';

export function machine() {
  const memory = Math.round(totalmem() / 1024 ** 3);
  return `${cpus()[0]?.model.trim()}, ${availableParallelism()} cores, ${memory} GB, ${type()} ${release()}`;
}

export function versions(packages) {
  const list = packages.map((name) => {
    const file = new URL(`../../node_modules/${name}/package.json`, import.meta.url);
    return `${name} ${JSON.parse(readFileSync(file)).version}`;
  });
  return [`Node ${process.version}`, ...list].join(', ');
}

/** Writes `<name>.md` and `<name>.svg`, and returns the Markdown. */
export function write(directory, name, { title, how, packages, tables, panels }) {
  const markdown = `${[
    `# ${title}`,
    `![${title}](${name}.svg)`,
    ...tables.flatMap(({ heading, ...rest }) => (heading ? [`## ${heading}`, table(rest)] : [table(rest)])),
    how.trim().replace(/\n */g, '\n'),
    `Measured on ${machine()}; ${versions(packages)}. Again: \`npm run bench -- ${name}\`.`,
  ].join('\n\n')}\n`;
  mkdirSync(directory, { recursive: true });
  writeFileSync(path.join(directory, `${name}.md`), markdown);
  writeFileSync(path.join(directory, `${name}.svg`), picture({ title, panels }));
  return markdown;
}

function table({ columns, rows }) {
  const line = (cells) => `| ${cells.join(' | ')} |`;
  return [line(columns), line(columns.map((_, at) => (at === 0 ? '---' : '---:'))), ...rows.map(line)].join('\n');
}

let shownAt = 0;

/** One line that rewrites itself on a terminal; elsewhere, such as in CI, a line now and then. */
export function showProgress(message) {
  if (process.stderr.isTTY) process.stderr.write(`\r\x1b[K${message}`);
  else if (performance.now() - shownAt > 10_000) process.stderr.write(`${message}\n`);
  else return;
  shownAt = performance.now();
}

export function hideProgress() {
  if (process.stderr.isTTY) process.stderr.write('\r\x1b[K');
}
