import { IncomingMessage, ServerResponse } from 'node:http';
import { Socket } from 'node:net';
import { start } from './child.mjs';
import { summary } from './stats.mjs';

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
      setImmediate(next);
    }
  });
}

/**
 * What each variant of an app adds to a request, against the first one. Each lives in a process of its own, on one
 * core; they take turns, so that whatever else the machine does hits all alike, and differences are taken within a
 * round.
 */
export async function compareInProcess({ app, variants, rounds, amount, execPath, progress }) {
  const sides = [];
  try {
    for (const { variant } of variants) sides.push(await start(app, [variant], { core: 0, execPath }));
    const costs = variants.map(() => []);
    for (let round = -1; round < rounds; round++) {
      for (let n = 0; n < sides.length; n++) {
        const at = (Math.max(0, round) + n) % sides.length; // Nobody always follows the same one.
        progress(`${variants[at].name}, in process, round ${Math.max(1, round + 1)} of ${rounds}`);
        const cost = await sides[at].ask('inProcess', amount);
        if (round >= 0) costs[at].push(cost); // The first one warms up.
      }
    }
    return variants.map(({ name, ours }, at) => ({
      name,
      ours,
      cost: summary(costs[at]),
      adds: summary(costs[at].map((cost, round) => cost - costs[0][round])),
    }));
  } finally {
    for (const side of sides) await side.stop();
  }
}
