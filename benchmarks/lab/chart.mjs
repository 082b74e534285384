import { figure } from './stats.mjs';

/** Small static pictures: panels of bars or lines, in SVG that follows the reader's light or dark setting. */

const WIDTH = 880;
const PAD = 24;
const PANEL = (WIDTH - 3 * PAD) / 2;
const LETTER = 7.4;
const BAR = 26;
const PLOT = 190;
const LEGEND_COLUMNS = 3;
const LEGEND_LINE = 20;

const STYLE = `
  text { font: 12px system-ui, sans-serif; fill: #57606a }
  .title { font-size: 17px; font-weight: 600; fill: #1f2328 }
  .head { font-size: 13px; font-weight: 600; fill: #1f2328 }
  .paper { fill: #ffffff }
  .grid { stroke: #d8dee4 } .spread { stroke: #57606a }
  .peer { fill: #b6bec8 } .ours { fill: #0969da }
  .line { fill: none; stroke-width: 2; stroke-linejoin: round } .line.ours { fill: none; stroke-width: 3.5 }
  .s0 { stroke: #0969da; fill: #0969da } .s1 { stroke: #8250df; fill: #8250df } .s2 { stroke: #8c959f; fill: #8c959f }
  .s3 { stroke: #bf3989; fill: #bf3989 } .s4 { stroke: #bc6c00; fill: #bc6c00 } .s5 { stroke: #1a7f37; fill: #1a7f37 }
  .s6 { stroke: #1f2328; fill: #1f2328 }
  @media (prefers-color-scheme: dark) {
    text { fill: #9198a1 } .title, .head { fill: #f0f6fc } .paper { fill: #0d1117 }
    .grid { stroke: #30363d } .spread { stroke: #9198a1 } .peer { fill: #4a525c } .ours { fill: #4493f8 }
    .s0 { stroke: #4493f8; fill: #4493f8 } .s1 { stroke: #ab7df8; fill: #ab7df8 } .s2 { stroke: #848d97; fill: #848d97 }
    .s3 { stroke: #f778ba; fill: #f778ba } .s4 { stroke: #e3963e; fill: #e3963e } .s5 { stroke: #3fb950; fill: #3fb950 }
    .s6 { stroke: #f0f6fc; fill: #f0f6fc }
  }`;

/**
 * Panels hold either `rows` (bars: `name`, `value`, `low`, `high`, `ours`) or `series` (lines: `name`, `ours`, `colour` and one
 * `{ value, low, high }` for each of the labels `x`; `log` and `most` shape the axis).
 */
export function picture({ title, panels }) {
  const series = panels.find((panel) => panel.series)?.series ?? [];
  let y = PAD + 14;
  let body = text(PAD, y, title, 'title');
  if (series.length > 0) {
    y += 28;
    body += legend(series, y);
    y += LEGEND_LINE * (Math.ceil(series.length / LEGEND_COLUMNS) - 1);
  }
  y += 20;
  for (let at = 0; at < panels.length; at += 2) {
    const pair = panels.slice(at, at + 2);
    body += pair.map((panel, column) => (panel.rows ? bars : lines)(panel, PAD + column * (PANEL + PAD), y)).join('');
    y += Math.max(...pair.map(({ rows }) => (rows ? rows.length * BAR : PLOT + 30))) + 44;
  }
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${y}" width="${WIDTH}" height="${y}" role="img">
<title>${escaped(title)}</title><style>${STYLE}</style>
<rect class="paper" width="${WIDTH}" height="${y}" rx="8"/>
${body}</svg>
`;
}

function bars({ title, rows }, x, y) {
  const most = Math.max(...rows.map(({ value, high }) => Math.max(value, high) || 0)) || 1;
  const left = x + 10 + LETTER * Math.max(...rows.map(({ name }) => name.length));
  const across = (value) => ((value || 0) / most) * (x + PANEL - left - 55);
  return (
    text(x, y + 13, title, 'head') +
    rows
      .map(({ name, value, low, high, ours }, at) => {
        const top = y + 24 + at * BAR;
        const middle = top + 9;
        return (
          text(left - 8, top + 13, name, ours ? 'head' : '', 'end') +
          `<rect class="${ours ? 'ours' : 'peer'}" x="${left}" y="${top}" width="${round(across(value))}" height="18" rx="2"/>` +
          (high > low
            ? `<path class="spread" d="M${round(left + across(low))} ${middle}H${round(left + across(high))}"/>`
            : '') +
          text(left + across(Math.max(value, high) || 0) + 6, top + 13, figure(value), ours ? 'head' : '')
        );
      })
      .join('')
  );
}

function lines({ title, x: labels, series, log, most, least = 0 }, x, y) {
  const left = x + 44;
  const top = y + 30;
  const width = PANEL - 64;
  const highest = most ?? niceAbove(Math.max(...series.flatMap(({ points }) => points.map(({ high }) => high))));
  const scale = log ? (v) => Math.log(Math.max(v, least) / least) / Math.log(highest / least) : (v) => v / highest;
  const down = (value) => round(top + PLOT * (1 - Math.min(1, Math.max(0, scale(value)))));
  const across = (at) => round(left + (width * at) / Math.max(1, labels.length - 1));
  const marks = log ? decades(least, highest) : [0, 0.25, 0.5, 0.75, 1].map((share) => share * highest);

  const grid = marks.map(
    (mark) =>
      `<path class="grid" d="M${left} ${down(mark)}h${width}"/>` +
      text(left - 6, down(mark) + 4, figure(mark), '', 'end'),
  );
  const ticks = labels.map((label, at) => text(across(at), top + PLOT + 18, label, '', 'middle'));
  // Ours is drawn last, on top of the others.
  const drawn = series.map(({ points, ours, colour: n }) => {
    const path = points.map(({ value }, at) => `${at === 0 ? 'M' : 'L'}${across(at)} ${down(value)}`).join('');
    const dots = points.map(({ value }, at) => `<circle class="s${n}" cx="${across(at)}" cy="${down(value)}" r="3"/>`);
    return `<path class="s${n} line ${ours ? 'ours' : ''}" style="fill:none" d="${path}"/>${dots.join('')}`;
  });
  return text(x, y + 13, title, 'head') + grid.join('') + ticks.join('') + drawn.reverse().join('');
}

function legend(series, y) {
  const column = (WIDTH - 2 * PAD) / LEGEND_COLUMNS;
  return series
    .map(({ name, ours, colour }, n) => {
      const x = PAD + (n % LEGEND_COLUMNS) * column;
      const top = y + Math.floor(n / LEGEND_COLUMNS) * LEGEND_LINE;
      return (
        `<rect class="s${colour}" x="${x}" y="${top - 9}" width="14" height="${ours ? 10 : 8}" rx="2"/>` +
        text(x + 20, top, name, ours ? 'head' : '')
      );
    })
    .join('');
}

function niceAbove(value) {
  const power = 10 ** Math.floor(Math.log10(value || 1));
  return [1, 2, 4, 6, 8, 10].map((step) => step * power).find((step) => step >= value) ?? power * 10;
}

function decades(least, highest) {
  const marks = [];
  for (let mark = least; mark <= highest * 1.001; mark *= 10) marks.push(mark);
  return marks;
}

const round = (value) => Math.round(value * 10) / 10;

const text = (x, y, content, style = '', anchor = 'start') =>
  `<text x="${round(x)}" y="${round(y)}" class="${style}" text-anchor="${anchor}">${escaped(content)}</text>`;

const escaped = (content) => String(content).replace(/[<&>]/g, (character) => `&#${character.charCodeAt(0)};`);
