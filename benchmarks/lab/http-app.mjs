import { once } from 'node:events';
import { answer } from './child.mjs';

/** Serves an Express app and tells what serving costs: requests, their time, and the CPU time of this process. */
export async function serve(app, methods = {}) {
  let count = 0;
  let firstAt;
  let lastAt;
  let cpu = process.cpuUsage();

  const server = app.listen(0, '127.0.0.1');
  server.prependListener('request', () => {
    lastAt = performance.now();
    firstAt ??= lastAt;
    count++;
  });
  await once(server, 'listening');

  answer(
    {
      begin() {
        count = 0;
        firstAt = undefined;
        cpu = process.cpuUsage();
      },
      end() {
        const { user, system } = process.cpuUsage(cpu);
        return { perSecond: ((count - 1) * 1000) / (lastAt - firstAt), cpuMicroseconds: (user + system) / count };
      },
      ...methods,
    },
    { port: server.address().port },
  );
}
