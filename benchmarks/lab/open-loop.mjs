import { Agent, get } from 'node:http';
import { setTimeout as wait } from 'node:timers/promises';

/**
 * Sends each request when its time has come, however slow the answers to the earlier ones are, as independent clients
 * do, and counts its latency from then. A client that has no answer by its `limit`, or else by `giveUp` ms, hangs up.
 *
 * @param arrivals `{ at, path, limit?, … }`, in the order of `at` (ms from now)
 * @returns the arrivals with `latency`, in ms, and `ok`
 */
export async function sendOpenLoop(port, arrivals, giveUp) {
  // A new connection each: different clients.
  const agent = new Agent({ keepAlive: false });
  const began = performance.now();
  const answers = [];
  for (const arrival of arrivals) {
    const early = arrival.at - (performance.now() - began);
    if (early > 0.5) await wait(early);
    answers.push(send(arrival));
  }
  return Promise.all(answers);

  function send(arrival) {
    const { limit = giveUp } = arrival;
    return new Promise((resolve) => {
      const elapsed = () => performance.now() - began - arrival.at;
      const end = (status) => {
        clearTimeout(patience);
        const latency = elapsed();
        resolve({ ...arrival, latency, ok: status === 200 && latency <= limit });
      };
      const request = get({ host: '127.0.0.1', port, agent, path: arrival.path }, (res) => {
        res.resume().once('close', () => end(res.complete ? res.statusCode : 0));
      });
      request.on('error', () => end(0));
      const patience = setTimeout(() => request.destroy(new Error('gave up')), limit - elapsed());
    });
  }
}

export function steady({ perSecond, lasting, request }) {
  const count = Math.floor((lasting / 1000) * perSecond);
  return Array.from({ length: count }, (_, n) => ({ at: (n * 1000) / perSecond, ...request() }));
}
