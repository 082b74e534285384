const whole = new Intl.NumberFormat('en', { maximumFractionDigits: 0 });

export function count(number) {
  return whole.format(number);
}

/** Three digits at most, in the unit that reads best. */
export function duration(ms) {
  if (ms < 10) return `${ms.toFixed(1)} ms`;
  if (ms < 1000) return `${Math.round(ms)} ms`;
  return `${(ms / 1000).toFixed(ms < 10_000 ? 2 : 1)} s`;
}

/** In units of 1024 bytes, as the limits count them. */
export function size(bytes) {
  const kilobytes = bytes / 1024;
  return `${kilobytes < 10 ? kilobytes.toFixed(1) : whole.format(kilobytes)} kB`;
}

export function percent(fraction) {
  return `${Math.round(100 * fraction)}%`;
}
