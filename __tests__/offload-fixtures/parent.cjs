// A process that offloads: what it does is its first argument. It tells its worker's process id to who started it.
const { closePools, createPool, offload } = require('express-unblock');

const pool = createPool({ workers: 1 });
const tell = (pid) => new Promise((resolve) => process.send(pid, resolve));
const reporting = (fn) => offload(fn, { pool });
const tasks = {
  loop: reporting(function loop() {
    this.progress(process.pid);
    for (;;);
  }),
  regexp: reporting(function regexp() {
    this.progress(process.pid);
    return /^(a+)+$/.test(`${'a'.repeat(100)}!`);
  }),
  idle: reporting(async function idle() {
    this.progress(process.pid);
    await new Promise(() => {});
  }),
  short: reporting(async function short() {
    this.progress(process.pid);
    await new Promise((resolve) => setTimeout(resolve, 300));
    return 'done';
  }),
};
const run = (name) => tasks[name].with({ onProgress: tell })();

const actions = {
  unused: () => {},
  used: () => run('short').then(console.log),
  keepsWarm: () => createPool({ workers: 2, minWorkers: 2 }),
  exit: () => run('loop') && tasks.loop.with({ onProgress: () => process.exit(3) })(),
  exitWhileRunning: () => tasks.loop.with({ onProgress: (pid) => tell(pid).then(() => process.exit(3)) })(),
  interrupted: async () => {
    process.once('SIGINT', async () => {
      await closePools();
      process.disconnect();
    });
    console.log(await run('short'));
  },
  throwing: async () => {
    const fail = offload((message) => {
      throw new Error(message); // here
    });
    console.log((await fail('now').catch((error) => error)).stack);
  },
  throwingListener: async () => {
    const onProgress = () => {
      throw new Error('listener');
    };
    const rejecting = async () => onProgress();
    console.log(await tasks.short.with({ onProgress })(), await tasks.short.with({ onProgress: rejecting })());
  },
};

const action = process.argv[2];
process.channel.unref();
Promise.resolve(actions[action] ? actions[action]() : run(action)).then(() => {
  if (action === 'exit') process.exit();
});
