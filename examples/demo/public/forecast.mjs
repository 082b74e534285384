import { count } from './format.mjs';

const SIZES = [1000, 1_000_000];
const TIMES = [1, 100_000];
const PAD = { left: 52, right: 18, top: 12, bottom: 34 };
const HEIGHT = 260;
const KEPT = 60;

/** Run time against size, both on logarithmic scales: what is expected, and what came of each comparison. */
export function createForecast(element) {
  const runs = new Map();
  let known = { line: [], manages: {} };
  let asked = { size: 0, deadlineMs: 0 };

  function show() {
    const width = Math.max(280, element.clientWidth);
    const x = scale(SIZES, PAD.left, width - PAD.right);
    const y = scale(TIMES, HEIGHT - PAD.bottom, PAD.top);
    const path = known.line.map(({ ms, size }, n) => `${n === 0 ? 'M' : 'L'}${x(size)} ${y(ms)}`).join('');
    element.innerHTML = `<svg viewBox="0 0 ${width} ${HEIGHT}" width="${width}" height="${HEIGHT}" aria-hidden="true">
      ${axes(x, y, width)}
      <path class="limit" d="M${PAD.left} ${y(asked.deadlineMs)}H${width - PAD.right}"/>
      <path class="own" d="M${x(asked.size)} ${PAD.top}V${HEIGHT - PAD.bottom}"/>
      <text class="own-label" x="${x(asked.size)}" y="${HEIGHT - PAD.bottom - 6}" ${anchorOf(x(asked.size), width)}>yours</text>
      <path class="expected" d="${path}"/>
      ${[...runs.values()].map((run) => dot(run, x, y)).join('')}</svg>`;
  }

  new ResizeObserver(show).observe(element);

  return {
    /** A comparison that has ended; it may be told twice. */
    add(run) {
      runs.set(run.id, run);
      if (runs.size > KEPT) runs.delete(runs.keys().next().value);
      show();
    },

    /** @param {{ line: object[], manages: Record<string, number | null> }} forecast what the server says it manages */
    know(forecast) {
      if (JSON.stringify(forecast) === JSON.stringify(known)) return;
      known = forecast;
      element.ariaBusy = String(forecast.isLearning);
      show();
    },

    /** @param {{ size: number, deadlineMs: number }} next what the visitor is about to send */
    ask(next) {
      if (next.size === asked.size && next.deadlineMs === asked.deadlineMs) return;
      asked = next;
      show();
    },

    /** What the picture says, in a sentence. */
    sentence({ size, deadline, name }) {
      const most = known.manages[deadline];
      const yours = `yours has ${count(size)}`;
      if (most) return `With ${name} this server manages about ${count(rounded(most))} characters; ${yours}.`;
      return `What this server manages in ${name} is not known; ${yours} characters.`;
    },
  };
}

function scale([least, most], from, to) {
  return (value) => {
    const share = Math.log(Math.min(most, Math.max(least, value)) / least) / Math.log(most / least);
    return Math.round(10 * (from + share * (to - from))) / 10;
  };
}

function axes(x, y, width) {
  const times = [1, 10, 100, 1000, 10_000, 100_000].map(
    (ms) =>
      `<path class="grid" d="M${PAD.left} ${y(ms)}H${width - PAD.right}"/>
       <text x="${PAD.left - 8}" y="${y(ms) + 4}" text-anchor="end">${ms < 1000 ? `${ms} ms` : `${ms / 1000} s`}</text>`,
  );
  const sizes = [1000, 10_000, 100_000, 1_000_000].map(
    (size) =>
      `<text x="${x(size)}" y="${HEIGHT - 14}" ${anchorOf(x(size), width)}>${size < 1_000_000 ? count(size) : '1 million'}</text>`,
  );
  return [...times, ...sizes].join('');
}

function anchorOf(at, width) {
  return `text-anchor="${at < PAD.left + 40 ? 'start' : at > width - PAD.right - 40 ? 'end' : 'middle'}"`;
}

/** The ring is what was expected, the dot what came; what was refused has a ring alone, in another colour. */
function dot({ size, predictedMs, runMs, outcome }, x, y) {
  const ring = predictedMs ? `<circle class="ring" cx="${x(size)}" cy="${y(predictedMs)}" r="5"/>` : '';
  if (runMs === undefined) {
    return predictedMs ? `<circle class="refused" cx="${x(size)}" cy="${y(predictedMs)}" r="5"/>` : '';
  }
  const error = predictedMs ? `<path class="error" d="M${x(size)} ${y(predictedMs)}V${y(runMs)}"/>` : '';
  const kind = outcome === 'completed' ? 'done' : 'stopped';
  return `${error}${ring}<circle class="${kind}" cx="${x(size)}" cy="${y(runMs)}" r="4"/>`;
}

/** Two digits: it is no more exact than that. */
function rounded(number) {
  return Number(number.toPrecision(2));
}
