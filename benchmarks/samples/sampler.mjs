// Asks for the main thread's stack again and again, as lib/watch/thread.ts does, but without a block to wait for.
import { Session } from 'node:inspector';
import { isMainThread, parentPort, workerData } from 'node:worker_threads';
import { seeded } from '../lab/stats.mjs';

if (isMainThread) throw new Error('a worker thread of run.mjs');

const { cells, seed, wanted, perSession } = workerData;
const SAMPLES = 0;
const NEVER = 1;
/** 1 asks this thread to rest, 2 says that it does. */
const RESTS = 2;
const random = seeded(seed);
// Answers come in between two events of this thread.
setInterval(() => {}, 1);

while (Atomics.load(cells, SAMPLES) < wanted) {
  if (Atomics.compareExchange(cells, RESTS, 1, 2) === 1) Atomics.wait(cells, RESTS, 2);
  const session = new Session();
  session.connectToMainThread();
  const several = perSession ?? 1 + Math.floor(random() * 4);
  for (let n = 0; n < several; n++) {
    // Any moment between two steps of the work is as likely as any other.
    Atomics.wait(cells, NEVER, 0, random() * 2);
    await new Promise((resolve) => {
      session.post(
        'Runtime.evaluate',
        {
          expression: "globalThis[Symbol.for('express-unblock.watch')].sample(1, 0)",
          silent: true,
          returnByValue: true,
        },
        (error, answer) => {
          if (error !== null) throw error;
          // At the end of its stack, the main thread cannot answer: that is an answer, too.
          if (answer.exceptionDetails === undefined) Atomics.add(cells, SAMPLES, 1);
          resolve();
        },
      );
    });
  }
  session.disconnect();
}
// This thread stays until the process ends: a main thread that frees a session whose thread has gone aborts (Node 24).
parentPort.postMessage('sampled');
