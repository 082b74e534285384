import { createRequire } from 'node:module';

/**
 * What the workers run. Each function stands on its own, so that it can be offloaded from its text as well as from
 * this file. Whatever should be stopped leaves a trace of still being there: `<id> <time>` in the file `trace`. What
 * dies leaves `<id> began`.
 */

// Functions that are offloaded from their text have a `require` of their own.
const require = createRequire(import.meta.url);

const proof = 'what a task returns to show which call it worked for: the nonce, backwards';

export { proof as default };

export function echo({ id, nonce }) {
  return { id, proof: [...nonce].reverse().join('') };
}

export async function pause({ id, nonce, ms }) {
  await new Promise((resolve) => setTimeout(resolve, ms));
  return { id, proof: [...nonce].reverse().join('') };
}

export function compute({ id, nonce, ms }) {
  const end = Date.now() + ms;
  while (Date.now() < end);
  return { id, proof: [...nonce].reverse().join('') };
}

export function roundTrip(value) {
  return value;
}

export function text({ id, nonce }) {
  return JSON.stringify({ id, proof: [...nonce].reverse().join('') });
}

export function bytes({ id, nonce }) {
  return Buffer.from(JSON.stringify({ id, proof: [...nonce].reverse().join('') }));
}

export function nothing() {}

export async function progress({ id, nonce }) {
  for (let step = 0; step < 5; step++) {
    this.progress({ id, step });
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
  return { id, proof: [...nonce].reverse().join('') };
}

export function fling({ variant }) {
  const circular = {};
  circular.self = circular;
  const coded = Object.assign(new Error('taken'), { status: 409, code: 'E_TAKEN' });
  class Oops extends Error {
    status = 422;
  }
  const thrown = {
    null: null,
    empty: '',
    text: 'text',
    zero: 0,
    nothing: undefined,
    symbol: Symbol('thrown'),
    function: () => {},
    circular,
    circularError: Object.assign(new Error('round'), { circular }),
    instance: new Oops('instance'),
    coded,
    getter: Object.defineProperty(new Error('getter'), 'trap', {
      enumerable: true,
      get() {
        throw new Error('sprung');
      },
    }),
    bare: Object.create(null),
    okay: { status: 200, message: 'no failure' },
    aggregate: new AggregateError([coded, new Oops('inner')], 'several'),
  };
  throw thrown[variant];
}

export function unclonableResult({ variant }) {
  return {
    function: () => {},
    symbol: Symbol('result'),
    method: { method() {} },
    promise: { inner: Promise.resolve() },
    weakMap: new WeakMap(),
    getter: {
      get trap() {
        throw new Error('sprung');
      },
    },
  }[variant];
}

export function recurse() {
  const deeper = () => deeper() + 1;
  return deeper();
}

export function spin({ id, trace, end }) {
  const until = Date.now() + end;
  while (Date.now() < until);
  require('node:fs').appendFileSync(trace, `${id} ${Date.now()}\n`);
}

export function beat({ id, trace, end }) {
  const until = Date.now() + end;
  while (Date.now() < until) {
    const next = Date.now() + 20;
    while (Date.now() < next);
    require('node:fs').appendFileSync(trace, `${id} ${Date.now()}\n`);
  }
}

export function regex({ id, trace }) {
  /^(a+)+$/.test(`${'a'.repeat(26)}b`);
  require('node:fs').appendFileSync(trace, `${id} ${Date.now()}\n`);
}

export function stubborn({ id, trace, end }) {
  const until = Date.now() + end;
  while (Date.now() < until) {
    try {
      while (Date.now() < until) JSON.parse(JSON.stringify([...Array(100).keys()]));
    } catch {
      // Goes on whatever happens.
    }
  }
  require('node:fs').appendFileSync(trace, `${id} ${Date.now()}\n`);
}

export async function afterAwait({ id, trace, end }) {
  await null;
  const until = Date.now() + end;
  while (Date.now() < until);
  require('node:fs').appendFileSync(trace, `${id} ${Date.now()}\n`);
}

export async function microtasks({ id, trace, end }) {
  const until = Date.now() + end;
  while (Date.now() < until) await null;
  require('node:fs').appendFileSync(trace, `${id} ${Date.now()}\n`);
}

export function timers({ id, trace, end }) {
  const until = Date.now() + end;
  return new Promise((resolve) => {
    const beating = setInterval(() => {
      require('node:fs').appendFileSync(trace, `${id} ${Date.now()}\n`);
      if (Date.now() < until) return;
      clearInterval(beating);
      resolve();
    }, 20);
  });
}

export function never() {
  return new Promise(() => {});
}

export function listens({ id, trace, end }) {
  const { signal } = this;
  return new Promise((_resolve, reject) => {
    const late = setTimeout(() => require('node:fs').appendFileSync(trace, `${id} ${Date.now()}\n`), end);
    signal.addEventListener('abort', () => {
      clearTimeout(late);
      reject(signal.reason);
    });
  });
}

export function pbkdf2({ id, trace, end, beating }) {
  const { Worker } = require('node:worker_threads');
  const blocked = new Int32Array(new SharedArrayBuffer(4));
  new Worker(beating, { eval: true, workerData: { id, trace, end, blocked } });
  blocked[0] = 1;
  require('node:crypto').pbkdf2Sync('password', 'salt', 2_500_000, 64, 'sha512');
}

export function atomicsWait({ id, trace, end }) {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, end);
  require('node:fs').appendFileSync(trace, `${id} ${Date.now()}\n`);
}

export function exit({ id, trace, variant }) {
  require('node:fs').appendFileSync(trace, `${id} began ${process.pid} ${Date.now()}\n`);
  process.exit(variant);
}

export function abort({ id, trace }) {
  require('node:fs').appendFileSync(trace, `${id} began ${process.pid} ${Date.now()}\n`);
  process.abort();
}

export function kill({ id, trace }) {
  require('node:fs').appendFileSync(trace, `${id} began ${process.pid} ${Date.now()}\n`);
  process.kill(process.pid, 'SIGKILL');
  for (;;);
}

export function segfault({ id, trace }) {
  require('node:fs').appendFileSync(trace, `${id} began ${process.pid} ${Date.now()}\n`);
  process.kill(process.pid, 'SIGSEGV');
  for (;;);
}

export function memory({ id, trace }) {
  require('node:fs').appendFileSync(trace, `${id} began ${process.pid} ${Date.now()}\n`);
  const hoard = [];
  for (;;) hoard.push(new Array(10_000).fill(hoard.length));
}

export async function disconnect({ id, trace }) {
  require('node:fs').appendFileSync(trace, `${id} began ${process.pid} ${Date.now()}\n`);
  process.disconnect();
  await new Promise(() => {});
}

export async function throwsLater({ id, trace }) {
  require('node:fs').appendFileSync(trace, `${id} began ${process.pid} ${Date.now()}\n`);
  setTimeout(() => {
    throw new Error('nobody catches this');
  }, 5);
  await new Promise(() => {});
}

/** Ends well, and takes the process with it a little later: idle, or at the next call. */
export function bomb({ id, nonce, ms }) {
  setTimeout(() => process.exit(13), ms);
  return { id, proof: [...nonce].reverse().join('') };
}
