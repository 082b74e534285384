/** node contexts.cjs <script> <express>: what stays of a request's async context when the request is over. */
const { AsyncResource } = require('node:async_hooks');
const { once, EventEmitter } = require('node:events');
const http = require('node:http');
const { setTimeout: sleep } = require('node:timers/promises');
const { currentDeadline, timeout } = require('express-unblock');

const app = require(process.argv[3])();
const events = new EventEmitter();
let warned = 0;
process.on('warning', ({ message }) => {
  warned++;
  events.emit('warned', message);
});
app.get('/', timeout(30), (req, res, next) => handler(req, res, next));
app.use((error, _req, res, _next) => res.status(error.status).end());
let handler = () => {};

const server = app.listen(0, '127.0.0.1', async () => {
  await scripts[process.argv[2]]();
  process.exit();
});

async function get() {
  const [res] = await once(http.get({ port: server.address().port, host: '127.0.0.1', agent: false }), 'response');
  res.resume();
  await once(res, 'close');
  return res.statusCode;
}

const scripts = {
  async outlives() {
    let heard = 0;
    let opened;
    process.on('unhandledRejection', () => heard++);
    handler = () => {
      opened = new AsyncResource('connection of a pool');
    };
    await get();
    const fail = () => opened.runInAsyncScope(() => void Promise.reject(new Error('refresh failed')));
    fail();
    await sleep(50);
    console.log(`early: ${warned} warning, ${heard} heard`);
    await sleep(5_200);
    fail();
    await sleep(50);
    console.log(`past: ${warned} warning, ${heard} heard`);
    console.log('deadline past:', opened.runInAsyncScope(currentDeadline));
  },

  async collects() {
    const kept = [];
    const refs = [];
    const answers = {
      answered: (_req, res) => res.end(),
      timedOut: () => {},
      left: (req) => setImmediate(() => req.socket.destroy()),
    };
    for (const answer of Object.values(answers)) {
      handler = (req, res) => {
        kept.push(new AsyncResource('connection of a pool'));
        void req.deadline.signal;
        refs.push(new WeakRef(req), new WeakRef(res));
        answer(req, res);
      };
      await get().catch(() => {});
    }
    handler = () => {};
    await sleep(5_200);
    await get();
    for (let round = 0; round < 10; round++) {
      await new Promise(setImmediate);
      gc();
    }
    console.log(`${refs.filter((ref) => ref.deref() === undefined).length} of ${refs.length} collected`);
  },

  async patches() {
    let told = 0;
    const wrap = () => {
      const original = process.emit;
      process.emit = function wrapped(event, ...args) {
        if (event === 'uncaughtException' || event === 'uncaughtExceptionMonitor') told++;
        return original.call(this, event, ...args);
      };
      return () => {
        process.emit = original;
      };
    };
    handler = (req) => {
      const fail = () => {
        throw new Error('late');
      };
      req.deadline.signal.addEventListener('abort', () => setTimeout(fail, 10));
    };
    const unwrap = wrap();
    const round = async () => {
      const warning = once(events, 'warned');
      console.log(await get(), ...(await warning));
    };
    await round();
    unwrap();
    await round();
    wrap();
    await round();
    console.log(`wrapper told of ${told} late errors`);
    console.log('alive');
  },
};
