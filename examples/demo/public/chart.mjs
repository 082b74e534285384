import uPlot from './uplot/uPlot.esm.js';

const SECONDS = 60;
const TOP = 30_000;

/** The last minute of waiting times. They span four orders of magnitude, hence the logarithmic scale. */
export function createChart(element) {
  const times = [];
  const pings = [];
  const delays = [];
  const stuck = [];
  const colour = (name) => () => getComputedStyle(element).getPropertyValue(name);
  const axis = {
    stroke: colour('--muted'),
    font: '12px system-ui, sans-serif',
    grid: { stroke: colour('--line'), width: 1 },
    ticks: { show: false },
  };

  const plot = new uPlot(
    {
      ...sizeOf(element),
      padding: [8, 18, 0, 0],
      cursor: { show: false },
      legend: { show: false },
      scales: { x: { time: false, range: [-SECONDS, 0] }, y: { distr: 3, range: [1, TOP] } },
      axes: [
        {
          ...axis,
          size: 28,
          splits: () => [-60, -45, -30, -15, 0],
          values: (_, at) => at.map((s) => (s ? `${s} s` : 'now')),
        },
        {
          ...axis,
          size: 52,
          splits: () => [1, 10, 100, 1000, 10_000],
          values: () => ['1 ms', '10 ms', '100 ms', '1 s', '10 s'],
        },
      ],
      series: [
        {},
        { fill: colour('--stuck-wash'), width: 0, points: { show: false } },
        { stroke: colour('--delay'), width: 1.5, points: { show: false } },
        { stroke: colour('--ping'), width: 2, points: { show: false } },
      ],
    },
    [[], [], [], []],
    element,
  );

  new ResizeObserver(() => plot.setSize(sizeOf(element))).observe(element);
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => plot.redraw());

  return {
    /** @param {{ ping: number, delay: number | undefined, stuck: boolean }} sample milliseconds; an unknown delay leaves a gap */
    add(sample) {
      const now = performance.now() / 1000;
      times.push(now);
      pings.push(Math.max(1, sample.ping));
      delays.push(sample.delay === undefined ? null : Math.max(1, sample.delay));
      stuck.push(sample.stuck ? TOP : null);
      while (times[0] < now - SECONDS - 1) for (const column of [times, pings, delays, stuck]) column.shift();
      plot.setData([times.map((time) => time - now), stuck, delays, pings]);
    },
  };
}

function sizeOf(element) {
  return { width: element.clientWidth, height: element.clientHeight };
}
