import { AsyncResource } from 'node:async_hooks';
import { IncomingMessage, ServerResponse } from 'node:http';
import { Socket } from 'node:net';
import { start } from './child.mjs';
import { median, summary } from './stats.mjs';

/** As many requests are under way at once as in the measurement over the network. */
const CONNECTIONS = 32;

/** Where the bytes of answers end: the network scatters by more than a middleware costs. */
class Sink extends Socket {
  _write(_chunk, _encoding, done) {
    done();
  }

  _writev(_chunks, done) {
    done();
  }
}

/**
 * Hands an app real requests and responses without a network in between.
 *
 * @returns CPU time in microseconds per request
 */
export async function handleInProcess(app, amount) {
  const sockets = Array.from({ length: CONNECTIONS }, () => new Sink());
  const before = process.cpuUsage();
  await Promise.all(sockets.map((socket) => handleInTurn(app, socket, Math.ceil(amount / CONNECTIONS))));
  const { user, system } = process.cpuUsage(before);
  for (const socket of sockets) socket.destroy();
  return (user + system) / (Math.ceil(amount / CONNECTIONS) * CONNECTIONS);
}

function handleInTurn(app, socket, amount) {
  return new Promise((resolve) => {
    // A server's requests come in outside of any other's async context.
    const connection = new AsyncResource('Connection');
    let left = amount;
    next();

    function next() {
      if (left-- === 0) return resolve();
      const req = new IncomingMessage(socket);
      Object.assign(req, { method: 'GET', url: '/', httpVersionMajor: 1, httpVersionMinor: 1, httpVersion: '1.1' });
      req.rawHeaders.push('Host', 'localhost', 'Connection', 'keep-alive');
      req.push(null);
      req.complete = true;
      const res = new ServerResponse(req);
      res.shouldKeepAlive = true;
      res.assignSocket(socket);
      // What Node's server does when an answer is out.
      res.on('finish', () => {
        res.detachSocket(socket);
        process.nextTick(close, res);
      });
      app(req, res);
    }

    function close(res) {
      res.destroyed = true;
      res.emit('close');
      connection.runInAsyncScope(setImmediate, undefined, next);
    }
  });
}

/**
 * What each variant of an app adds to a request, against the first one. Each lives in a process of its own, on one
 * core; they take turns, so that whatever else the machine does hits all alike, and differences are taken between
 * processes that ran side by side. The same code is a microsecond faster in one process than in the next: each variant
 * gets many.
 */
export async function compareInProcess({ app, variants, processes, rounds, amount, execPath, progress }) {
  const costs = variants.map(() => []);
  for (let n = 0; n < processes; n++) {
    progress(`in process, ${n + 1} of ${processes}`);
    const measured = await measureSideBySide({ app, variants, rounds, amount, execPath });
    for (const [at, cost] of measured.entries()) costs[at].push(cost);
  }
  return variants.map(({ name, ours }, at) => ({
    name,
    ours,
    cost: summary(costs[at]),
    adds: summary(costs[at].map((cost, n) => cost - costs[0][n])),
  }));
}

async function measureSideBySide({ app, variants, rounds, amount, execPath }) {
  const sides = [];
  try {
    for (const { variant } of variants) sides.push(await start(app, [variant], { core: 0, execPath }));
    for (const side of sides) await side.ask('inProcess', rounds * amount); // Warms up.
    const costs = variants.map(() => []);
    for (let round = 0; round < rounds; round++) {
      for (let n = 0; n < sides.length; n++) {
        const at = (round + n) % sides.length; // Nobody always follows the same one.
        costs[at].push(await sides[at].ask('inProcess', amount));
      }
    }
    return costs.map(median);
  } finally {
    await Promise.all(sides.map((side) => side.stop()));
  }
}
