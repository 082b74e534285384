/** node app-under-test.cjs <express> <script>: an app in a process of its own, which may end, or is measured. */
const { AsyncResource } = require('node:async_hooks');
const { subscribe } = require('node:diagnostics_channel');
const { EventEmitter, once } = require('node:events');
const http = require('node:http');
const { setTimeout: sleep, setImmediate: turn } = require('node:timers/promises');
const { offload, timeout } = require('express-unblock');

const app = require(process.argv[2])();

const fail = (message) => {
  throw new Error(message);
};

/** What the handler of a request with a deadline does, where the script is about that. */
const handlers = {
  async rejects() {
    await sleep(60);
    fail('late');
  },
  async rejectsWithNull() {
    await sleep(60);
    throw null;
  },
  async rejectsUnawaited({ deadline: { signal } }) {
    const works = [sleep(1_000, undefined, { signal }), sleep(1_000, undefined, { signal })];
    await works[0];
    await works[1];
  },
  throws() {
    setTimeout(fail, 60, 'late');
  },
  throwsOnAbort({ deadline }) {
    deadline.signal.addEventListener('abort', () => fail('late'));
  },
  throwsInTime({ deadline }) {
    deadline.extend(10_000);
    setTimeout(fail, 1, 'in time');
  },
  /** As packages do that wrap it and restore it. */
  restoresEmit() {
    setTimeout(() => {
      const { emit } = process;
      process.emit = emit;
      fail('late');
    }, 60);
  },
};

/** What its error handler does, once it has answered. */
const errorHandlers = {
  throwsInErrorHandler: () => setTimeout(fail, 1, "the error handler's"),
};

const outside = {
  rejectsOutside: () => Promise.reject(new Error('outside')),
  throwsOutside: () => fail('outside'),
  rejectsWithText: () => Promise.reject('outside'),
};

app.get('/slow', timeout(30), handlers[process.argv[3]] ?? (() => {}));
const emitter = new EventEmitter();
const one = offload(() => 1);
app.get('/deserted', timeout(10_000), async (_req, res) => {
  emitter.emit('hanging');
  await once(res, 'close');
  const call = one();
  call.catch(() => emitter.emit('rejected'));
  await call;
});
app.get('/deserted-with-a-bug', timeout(10_000), (_req, res) => {
  res.on('close', () => setTimeout(fail, 1, 'a bug'));
  emitter.emit('hanging');
});
app.get('/next', (_req, res) => res.send('next'));
app.use('/quick', timeout(10_000), (_req, res) => res.json({}));
const kept = [];
let seen;
app.get('/keeps', timeout(10_000), (req, res) => {
  seen = new WeakRef(req);
  kept.push(new AsyncResource('connection of a pool'));
  res.end();
});
let left = 0;
app.get('/hangs', timeout(10_000), (_req, res) => {
  res.on('close', () => emitter.emit('left', ++left));
  emitter.emit('hanging');
});

app.use((error, _req, res, next) => {
  if (!(process.argv[3] in errorHandlers)) return next(error);
  res.status(error.status).end();
  errorHandlers[process.argv[3]]();
});

const agent = new http.Agent({ keepAlive: true, maxSockets: 20 });
const server = app.listen(0, '127.0.0.1', async () => {
  if (process.argv[3] === 'leaks') await leaks();
  else if (process.argv[3] === 'deserts') await desert();
  else if (process.argv[3] === 'desertsWithBug') await leave('/deserted-with-a-bug');
  else await survive();
  agent.destroy();
  server.close();
});
server.keepAliveTimeout = 0; // Idle connections are not closed under the next request.

async function get(path) {
  const { port } = server.address();
  const [res] = await once(http.get({ port, host: '127.0.0.1', path, agent }), 'response');
  res.resume();
  await once(res, 'close');
  return res.statusCode;
}

async function survive() {
  const reported = new Promise((resolve) => {
    subscribe('express-unblock:late', ({ method, error }) => {
      console.log('late', method, error?.code ?? error?.message);
      resolve();
    });
  });
  console.log('answered', await get('/slow'));
  if (process.argv[3] === 'listens') await listens();
  else if (process.argv[3] in outside) setImmediate(outside[process.argv[3]]);
  else await reported;
  if (process.argv[3] === 'restoresEmit') setImmediate(outside.throwsOutside);
  await turn(); // What ends the process ends it before.
  if (process.argv[3] !== 'listens') console.log('next', await get('/next'));
}

async function listens() {
  for (const event of ['unhandledRejection', 'uncaughtException']) {
    process.on(event, (error) => console.log('heard', event, error.message));
  }
  outside.rejectsOutside();
  await turn();
  setImmediate(outside.throwsOutside);
}

async function leave(path) {
  const req = http.get({ port: server.address().port, host: '127.0.0.1', path, agent: false });
  req.on('error', () => {});
  await once(emitter, 'hanging');
  req.destroy();
}

/** A client leaves, and its handler calls an offloaded function without catching. */
async function desert() {
  await leave('/deserted');
  await once(emitter, 'rejected');
  await turn();
  console.log('next', await get('/next'));
}

/** Requests that are answered, run out of time, or lose their client; what they leave is counted. */
async function leaks() {
  const round = async (many, few) => {
    const answered = await Promise.all(Array.from({ length: many }, () => get('/quick')));
    const timedOut = await Promise.all(Array.from({ length: few }, () => get('/slow')));
    for (let count = 0; count < few; count++) {
      const req = http.get({ port: server.address().port, host: '127.0.0.1', path: '/hangs', agent: false });
      req.on('error', () => {});
      await once(emitter, 'hanging');
      req.destroy();
      await once(emitter, 'left');
    }
    return [answered.filter((status) => status === 200).length, timedOut.filter((status) => status === 504).length];
  };
  await round(1_000, 50);
  const before = await heapUsed();
  left = 0;
  const [answered, timedOut] = await round(Number(process.argv[4]), Number(process.argv[4]) / 10);
  const grown = (await heapUsed()) - before;
  await get('/keeps');
  await get('/next');
  agent.destroy();
  server.close();
  await once(server, 'close');
  await heapUsed();
  const resources = process.getActiveResourcesInfo();
  const active = (type) => resources.filter((name) => name === type).length;
  const collected = kept.length === 1 && seen.deref() === undefined;
  console.log(
    JSON.stringify({
      answered,
      timedOut,
      left,
      grown,
      collected,
      timers: active('Timeout'),
      immediates: active('Immediate'),
    }),
  );
}

async function heapUsed() {
  for (let round = 0; round < 5; round++) {
    await new Promise(setImmediate);
    gc();
  }
  return process.memoryUsage().heapUsed;
}
