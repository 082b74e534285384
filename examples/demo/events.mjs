// What the page cannot know by itself, as server-sent events: how late this process's event loop runs, what the pool
// is doing and what it manages, and how far each comparison has come.
import { monitorEventLoopDelay } from 'node:perf_hooks';

const EVERY = 250;
const RESOLUTION = 10;

export function eventStream({ report }) {
  const clients = new Set();
  const delay = monitorEventLoopDelay({ resolution: RESOLUTION });
  delay.enable();

  function publish(event, data) {
    const message = `event: ${event}\ndata: ${JSON.stringify(data)}\n\n`;
    for (const client of clients) if (!client.writableNeedDrain) client.write(message);
  }

  function tell() {
    // The histogram holds the time between two looks, its own resolution included.
    publish('state', { delay: Math.max(0, delay.max / 1e6 - RESOLUTION), ...report() });
    delay.reset();
  }

  // After a block all timers are due at once: one step later, the histogram's own has seen it too.
  setInterval(() => setImmediate(tell), EVERY).unref();

  return {
    publish,

    handler(_req, res) {
      res.writeHead(200, { 'Content-Type': 'text/event-stream', 'Cache-Control': 'no-store' });
      res.write('retry: 1000\n\n');
      clients.add(res);
      res.on('close', () => clients.delete(res));
    },

    close() {
      for (const client of clients) client.end();
    },
  };
}
