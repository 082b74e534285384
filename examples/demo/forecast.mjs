// What the server has learnt of how long comparisons take, for the page: what it manages by when, and of each
// comparison what was expected and what came.
import { tracingChannel } from 'node:diagnostics_channel';

const KEPT = 60;
/** The line that the page draws: 30 times, from a millisecond to a minute and a half. */
const TIMES = Array.from({ length: 30 }, (_, n) => Math.round(1.482 ** n));

/** A comparison that takes this long tells enough of those that take longer. */
const LONG_MS = 2000;

/** As sure as this, it is sure for half a minute more without another run. */
const SURE = 0.6;

export function createForecast({ compare, warmUp, pool, events }) {
  const runs = [];
  let isLearning = false;
  let told = 0;
  const isSure = () => pool.stats().functions.some(({ certainty }) => certainty >= SURE);

  // Of all offloaded functions, only the one with a size has something to forecast.
  tracingChannel('express-unblock:offload').subscribe({
    asyncEnd({ size, predictedMs, runMs, outcome, reason }) {
      if (size === undefined) return;
      const run = { id: ++told, size, predictedMs, runMs, outcome, reason };
      runs.push(run);
      if (runs.length > KEPT) runs.shift();
      events.publish('run', run);
    },
  });

  return {
    runs,

    /** The largest size for each of these times, as far as it is known, and the line through many more. */
    report(deadlines) {
      const line = TIMES.map((ms) => ({ ms, size: compare.manages(ms) })).filter(({ size }) => size !== undefined);
      return {
        isLearning,
        line,
        manages: Object.fromEntries(deadlines.map((time) => [time, compare.manages(time) ?? null])),
      };
    },

    /**
     * Compares longer and longer parts of a text, where too little is known to go by: half of it fades in a minute. In a
     * process that has only just started, the first ones would take longer than much longer ones do later.
     */
    async learnFrom(text) {
      if (isLearning || isSure()) return;
      isLearning = true;
      try {
        for (let n = 0; n < 3; n++) await warmUp(text.slice(0, 60_000));
        // Where run times have changed since, as on a machine that was busy, once is not enough.
        for (let tries = 0; tries < 4 && !isSure(); tries++) {
          for (let size = 20_000, ms = 0; size < 250_000 && ms < LONG_MS; size = Math.round(size * 1.15)) {
            await compare(text.slice(0, size));
            ms = runs.at(-1).runMs;
          }
        }
      } catch (error) {
        // Somebody else keeps the workers busy, or the server is about to end.
        if (!error.code?.startsWith('ERR_UNBLOCK_')) throw error;
      } finally {
        isLearning = false;
      }
    },
  };
}
