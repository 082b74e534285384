/** The value below which the given share of `values` lies. */
export function quantile(values, share) {
  const sorted = values.toSorted((a, b) => a - b);
  const at = (sorted.length - 1) * share;
  const below = Math.floor(at);
  const above = Math.ceil(at);
  return sorted[below] + (sorted[above] - sorted[below]) * (at - below);
}

export const median = (values) => quantile(values, 0.5);

/** What a table or a bar shows of repeated measurements: the median and the middle half around it. */
export function summary(values) {
  return { value: median(values), low: quantile(values, 0.25), high: quantile(values, 0.75), values };
}

export const sum = (values) => values.reduce((total, value) => total + value, 0);

/** Three digits that count, the way people write them: 12,300, 45.6, 0.78. */
export function figure(value) {
  if (!Number.isFinite(value)) return '–';
  if (Math.abs(value) < 0.001) return '0';
  return new Intl.NumberFormat('en', { maximumSignificantDigits: 3 }).format(value);
}

/** A summary with its spread. */
export const spread = ({ value, low, high }) =>
  Number.isFinite(value) ? `${figure(value)} (${figure(low)} to ${figure(high)})` : '–';

/** Random numbers from 0 to 1 that are the same for the same seed (mulberry32). */
export function seeded(seed) {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}
