const EVERY_MS = 20;

/** @returns {() => number} the worst that this process was late for a timer lately, in ms: who shares its machine knows why */
export function watchLag() {
  let lag = 0;
  let ticked = Date.now();
  setInterval(() => {
    lag = Math.max(lag * 0.995, Date.now() - ticked - EVERY_MS);
    ticked = Date.now();
  }, EVERY_MS).unref();
  return () => lag;
}
