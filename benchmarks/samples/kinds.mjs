// Work of many kinds, Node's own code and the app's. Each does something whose result is known, for a few milliseconds,
// and returns, or resolves with, what was wrong. Samples are taken meanwhile: none of them may be noticed.
import { AsyncLocalStorage, executionAsyncId } from 'node:async_hooks';
import { createCipheriv, createDecipheriv, createHash } from 'node:crypto';
import { EventEmitter, once } from 'node:events';
import { createRequire } from 'node:module';
import { PassThrough, pipeline, Readable, Transform } from 'node:stream';
import { setImmediate as turn } from 'node:timers/promises';
import { inspect, promisify } from 'node:util';
import { runInNewContext, Script } from 'node:vm';
import { gunzipSync, gzip, gzipSync } from 'node:zlib';

const require = createRequire(import.meta.url);
const store = new AsyncLocalStorage();
const BUSY_MS = 8;

/** Repeats a step; its first answer other than `undefined` is a fault. */
function repeat(step, forMs = BUSY_MS) {
  for (const from = performance.now(); performance.now() - from < forMs; ) {
    const fault = step();
    if (fault !== undefined) return fault;
  }
  return undefined;
}

const unless = (right, fault) => (right ? undefined : fault);
const words = Array.from({ length: 4000 }, (_, n) => `w${(n * 7919) % 4001}`);
const text = words.join(' ');
const key = Buffer.alloc(32, 7);
const iv = Buffer.alloc(16, 9);

export const kinds = {
  'timers that are cleared': () => repeat(() => void clearTimeout(setTimeout(() => {}, 50))),

  async 'timers that fire, in their order'() {
    const fired = [];
    let made = 0;
    repeat(() => {
      const number = made++;
      setTimeout(() => fired.push(number), 1);
    }, 2);
    while (fired.length < made) await turn();
    return unless(
      fired.every((number, at) => number === at),
      'in another order',
    );
  },

  async 'an interval that is kept'() {
    let ticks = 0;
    const interval = setInterval(() => ticks++, 1);
    repeat(() => {});
    while (ticks < 3) await turn();
    clearInterval(interval);
  },

  async 'microtasks run after the work, in their order'() {
    const ran = [];
    const promises = [];
    const fault = repeat(() => {
      const number = promises.length;
      if (number < 2000) promises.push(Promise.resolve().then(() => ran.push(number)));
      return unless(ran.length === 0, 'ran early');
    });
    await Promise.all(promises);
    return fault ?? unless(ran.length === promises.length && ran.every((number, at) => number === at), 'lost');
  },

  async 'ticks run before immediates'() {
    let ticks = 0;
    let made = 0;
    const fault = repeat(() => {
      if (made < 2000) {
        made++;
        process.nextTick(() => ticks++);
      }
      return unless(ticks === 0, 'ran early');
    });
    await turn();
    return fault ?? unless(ticks === made, `${ticks} of ${made}`);
  },

  'a regular expression': () => repeat(() => unless(!/^(a+)+$/.test(`${'a'.repeat(14)}!`), 'matched')),

  'a replacement by a function': () =>
    repeat(() => unless(text.replace(/w(\d)/g, (_, digit) => `x${digit}`).startsWith('x0 x'), 'wrong')),

  'a regular expression with a state of its own': () => {
    const pattern = /w\d+/g;
    let found = 0;
    while (pattern.exec(text) !== null) found++;
    return unless(found === words.length && pattern.lastIndex === 0, `${found}`);
  },

  sorting: () => {
    const sorted = [...words].sort((a, b) => Number(a.slice(1)) - Number(b.slice(1)));
    return unless(
      sorted.every((word, at) => at === 0 || Number(word.slice(1)) >= Number(sorted[at - 1].slice(1))),
      'out of order',
    );
  },

  'JSON with a reviver': () => {
    const copy = JSON.parse(JSON.stringify(words.map((word) => ({ word }))), (_, value) => value);
    return unless(copy.length === words.length && copy[7].word === words[7], 'wrong');
  },

  'a structured clone': () => {
    const copy = structuredClone({ map: new Map(words.map((word, at) => [word, at])), date: new Date(7) });
    return unless(copy.map.get('w7919') === undefined && copy.date.getTime() === 7 && copy.map.size === 4000, 'wrong');
  },

  async streams() {
    let read = 0;
    const stream = new PassThrough();
    stream.on('data', () => read++);
    let written = 0;
    repeat(() => {
      stream.write(`${written++}`);
    }, 4);
    stream.end();
    await once(stream, 'end');
    return unless(read === written, `${read} of ${written}`);
  },

  async 'a pipeline'() {
    let size = 0;
    const upper = new Transform({ transform: (chunk, _, done) => done(null, String(chunk).toUpperCase()) });
    const count = new Transform({
      transform(chunk, _, done) {
        size += chunk.length;
        done();
      },
    });
    await promisify(pipeline)(Readable.from(words), upper, count.resume());
    return unless(size === words.join('').length, `${size}`);
  },

  'an async context that is kept': () => {
    const mine = {};
    return store.run(mine, () => {
      const fault = repeat(() => {
        const inner = {};
        const inside = store.run(inner, () => store.getStore());
        return unless(store.getStore() === mine && inside === inner, 'another');
      });
      return fault ?? unless(store.getStore() === mine, 'another');
    });
  },

  async 'an async context behind awaits'() {
    const mine = {};
    return store.run(mine, async () => {
      for (let n = 0; n < 40; n++) {
        await (n % 2 ? turn() : undefined);
        if (store.getStore() !== mine) return 'another';
        repeat(() => {}, 0.3);
      }
      return undefined;
    });
  },

  'a Proxy': () => {
    const proxy = new Proxy({}, { get: (_, name) => name.length, has: () => true });
    return repeat(() => unless(proxy.abc === 3 && 'x' in proxy, 'wrong'));
  },

  'a generator': () => {
    function* numbers() {
      for (let n = 0; ; n++) yield n;
    }
    const iterator = numbers();
    let expected = 0;
    return repeat(() => unless(iterator.next().value === expected++, 'skipped'));
  },

  async 'an async generator'() {
    async function* numbers() {
      for (let n = 0; n < 500; n++) yield n;
    }
    let sum = 0;
    for await (const number of numbers()) sum += number;
    return unless(sum === (499 * 500) / 2, `${sum}`);
  },

  'the stack of an error': () => repeat(() => unless(/repeat/.test(new Error('x').stack), 'no stack')),

  'a stack of the app’s own format': () => {
    const { prepareStackTrace, stackTraceLimit } = Error;
    const mine = (_, sites) => sites.length;
    Error.prepareStackTrace = mine;
    Error.stackTraceLimit = 3;
    const fault = repeat(() => unless(new Error('x').stack === 3, 'another format'));
    const kept = Error.prepareStackTrace === mine && Error.stackTraceLimit === 3;
    Object.assign(Error, { prepareStackTrace, stackTraceLimit });
    return fault ?? unless(kept, 'settings lost');
  },

  'a stack that is being prepared': () => {
    const { prepareStackTrace } = Error;
    Error.prepareStackTrace = (_, sites) => {
      repeat(() => {}, 0.5);
      return `${sites.length}`;
    };
    const fault = repeat(() => unless(Number(new Error('x').stack) > 0, 'no number'));
    Error.prepareStackTrace = prepareStackTrace;
    return fault;
  },

  'errors that are caught, with finally': () => {
    let finallies = 0;
    let thrown = 0;
    return (
      repeat(() => {
        try {
          thrown++;
          throw new RangeError('x');
        } catch (error) {
          return unless(error instanceof RangeError, 'another error');
        } finally {
          finallies++;
          if (finallies !== thrown) finallies = Number.NaN;
        }
      }) ?? unless(finallies === thrown, 'a finally was skipped')
    );
  },

  'the end of the stack': () => {
    const deeper = (depth) => {
      try {
        return deeper(depth + 1);
      } catch (error) {
        if (!(error instanceof RangeError)) throw error;
        return depth;
      }
    };
    return repeat(() => unless(deeper(0) > 1000, 'not deep'));
  },

  'much garbage': () => repeat(() => unless(Array.from({ length: 500 }, (_, n) => ({ n }))[499].n === 499, 'wrong')),

  'weak references': () => {
    const map = new WeakMap();
    return repeat(() => {
      const object = {};
      map.set(object, object);
      return unless(new WeakRef(object).deref() === map.get(object), 'lost');
    });
  },

  WebAssembly: () => repeat(() => unless(addOne(41) === 42, 'wrong')),

  'big integers': () => {
    const big = (1n << 4000n) - 1n;
    return repeat(() => unless((big * big + big) % big === 0n, 'wrong'));
  },

  'a module that is loaded': () => {
    const file = require.resolve('ejs');
    delete require.cache[file];
    return unless(typeof require('ejs').render === 'function', 'not loaded');
  },

  async 'an ES module that is imported'() {
    const { value } = await import(`data:text/javascript,export const value = ${executionAsyncId()}`);
    return unless(Number.isInteger(value), 'wrong');
  },

  'compiled code': () => unless(new Function('a', 'b', 'return a + b')(1, 2) === 3, 'wrong'),

  'another realm': () =>
    unless(runInNewContext('[1, 2, 3].map((x) => x * 2).join()') === '2,4,6', 'wrong') ??
    unless(new Script('40 + 2').runInThisContext() === 42, 'wrong'),

  'an emitter': () => {
    const emitter = new EventEmitter();
    let heard = 0;
    emitter.on('event', () => heard++);
    let emitted = 0;
    return repeat(() => {
      emitter.emit('event', emitted++);
      return unless(heard === emitted, 'unheard');
    });
  },

  'a hash': () =>
    repeat(() =>
      unless(createHash('md5').update('a').update('b').digest('hex') === '187ef4436122d1cc2f40dc2b92f0eba0', 'wrong'),
    ),

  encryption: () => {
    const cipher = createCipheriv('aes-256-cbc', key, iv);
    const secret = Buffer.concat([cipher.update(text), cipher.final()]);
    const decipher = createDecipheriv('aes-256-cbc', key, iv);
    return unless(Buffer.concat([decipher.update(secret), decipher.final()]).toString() === text, 'wrong');
  },

  compression: () => unless(gunzipSync(gzipSync(text)).toString() === text, 'wrong'),

  async 'compression elsewhere'() {
    const packed = promisify(gzip)(text);
    repeat(() => {}, 2);
    return unless(gunzipSync(await packed).toString() === text, 'wrong');
  },

  buffers: () =>
    repeat(() => unless(Buffer.from(Buffer.from(text).toString('base64'), 'base64').toString() === text, 'wrong')),

  'text in other scripts': () =>
    repeat(() => unless(new TextDecoder().decode(new TextEncoder().encode('Grüße, 世界')) === 'Grüße, 世界', 'wrong')),

  inspection: () => repeat(() => unless(inspect(new Map([[1, { a: [1, 2] }]])).includes('a: [ 1, 2 ]'), 'wrong')),

  'abort signals': () =>
    repeat(() => {
      const controller = new AbortController();
      let heard = 0;
      controller.signal.addEventListener('abort', () => heard++);
      controller.abort();
      return unless(heard === 1, 'unheard');
    }),
};

/** `(func (param i32) (result i32) local.get 0 i32.const 1 i32.add)` */
const { addOne } = new WebAssembly.Instance(
  new WebAssembly.Module(
    Buffer.from('0061736d0100000001060160017f017f03020100070a01066164644f6e6500000a09010700200041016a0b', 'hex'),
  ),
).exports;
