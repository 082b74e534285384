/** What the workers of all contenders run. The functions stand on their own: offload() takes them as text. */

export function noop() {}

export function echo(value) {
  return value;
}

/** Bounded, so that nothing goes on for ever where it cannot be stopped. */
export function spin(ms) {
  const end = Date.now() + ms;
  while (Date.now() < end);
}

/**
 * The same arithmetic over and over, about half a millisecond a unit. Each unit done leaves a byte in a file, so that
 * the work that was really done can be told from the work that was delivered, wherever it ran and however it ended.
 */
export function work(units) {
  const fs = process.getBuiltinModule('node:fs');
  globalThis.tally ??= fs.openSync(process.env.BENCH_TALLY, 'a');
  let x = 1;
  for (let unit = 0; unit < units; unit++) {
    for (let n = 0; n < 500_000; n++) x = (Math.imul(x, 1103515245) + 12345) | 0;
    fs.writeSync(globalThis.tally, '.');
  }
  return { units, x };
}
