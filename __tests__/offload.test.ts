import { AsyncLocalStorage } from 'node:async_hooks';
import express from 'express';
import { closePools, createPool, offload, problemDetails, timeout } from 'express-unblock';
import request from 'supertest';

afterAll(() => closePools({ grace: 0 }));

const add = offload(function add(a: number, b: number) {
  return a + b;
});
const echo = offload((value: any) => value);
const pidOf = offload(() => process.pid);

describe('an offloaded function', () => {
  it('returns its result from another process', async () => {
    expect(await add(2, 3)).toBe(5);
    expect(await pidOf()).not.toBe(process.pid);
  });

  it('keeps its name', () => {
    expect(add.name).toBe('add');
  });

  it('may be asynchronous', async () => {
    const later = offload(async (value: string) => {
      await new Promise((resolve) => setTimeout(resolve, 5));
      return value.toUpperCase();
    });
    expect(await later('done')).toBe('DONE');
  });

  it('may be a method shorthand, under any name', async () => {
    const key = 'computed';
    const methods = {
      double(n: number) {
        return n * 2;
      },
      async get() {
        return 'get';
      },
      class() {
        return 'class';
      },
      [`a ${key} name`]() {
        return key;
      },
      [Symbol.iterator]() {
        return 'iterator';
      },
    };
    expect(await offload(methods.double)(21)).toBe(42);
    expect(await offload(methods.get)()).toBe('get');
    expect(await offload(methods.class)()).toBe('class');
    expect(await offload(methods[Symbol.iterator])()).toBe('iterator');
  });

  it('may import packages and files, seen from the file that offloaded it', async () => {
    const load = offload(async () => {
      const { default: bytes } = await import('bytes');
      const { double } = await import('./offload-fixtures/tasks.mjs' as string);
      return [bytes.parse('1kb'), double(21)];
    });
    expect(await load()).toEqual([1024, 42]);
  });

  it('has globals of a worker and require', async () => {
    const look = offload(() => [typeof require('node:os').cpus, typeof structuredClone, typeof fetch]);
    expect(await look()).toEqual(['function', 'function', 'function']);
  });

  it('stays in the mode it was written in', async () => {
    const write = () => {
      const frozen: { a: number } = Object.freeze({ a: 1 });
      try {
        frozen.a = 2;
        return 'written';
      } catch {
        return 'refused';
      }
    };
    expect(await offload(write)()).toBe('refused');
    const ofPlain = (text: string) => offload(new Function(`return ${text}`)() as () => boolean)();
    expect(await ofPlain('function () { return (function () { return this === globalThis; })(); }')).toBe(true);
    expect(
      await offload(() =>
        (function (this: unknown) {
          return this === undefined;
        })(),
      )(),
    ).toBe(true);
  });

  it('hears nothing of what an earlier call left behind', async () => {
    const pool = createPool({ workers: 1 });
    const leaving = offload(
      function leaving(this: { progress(value: unknown): void }) {
        const state = globalThis as { begun?: boolean; told?: boolean };
        const waiting = setInterval(() => {
          if (!state.begun) return;
          clearInterval(waiting);
          this.progress('of another');
          state.told = true;
        }, 1);
      },
      { pool },
    );
    const staying = offload(
      async () => {
        const state = globalThis as { begun?: boolean; told?: boolean };
        state.begun = true;
        while (!state.told) await new Promise((resolve) => setImmediate(resolve));
      },
      { pool },
    );
    const heard: unknown[] = [];
    await leaving();
    await staying.with({ onProgress: (value) => heard.push(value) })();
    expect(heard).toEqual([]);
    await pool.close();
  });

  it('calls others in place, whose progress listeners may fail', async () => {
    const outer = offload(async () => {
      const inner = require('express-unblock').offload(function inner(this: { progress(value: unknown): void }) {
        this.progress(1);
        return 'done';
      });
      const throws = () => {
        throw new Error('listener');
      };
      return [await inner.with({ onProgress: throws })(), await inner.with({ onProgress: async () => throws() })()];
    });
    expect(await outer()).toEqual(['done', 'done']);
  });

  it('is told by name that it reports what cannot be cloned', async () => {
    const report = offload(function report(this: { progress(value: unknown): void }) {
      this.progress(() => 1);
    });
    await expect(report()).rejects.toMatchObject({
      code: 'ERR_UNBLOCK_NOT_SERIALIZABLE',
      message: expect.stringMatching(/^A progress report of the task cannot be sent between processes: /),
    });
  });

  it('has stack traces that name its file', async () => {
    const fail = offload(function failing() {
      throw new Error('broken');
    });
    await expect(fail()).rejects.toMatchObject({ stack: expect.stringMatching(/failing.*offload\.test\.ts/) });
  });

  it('reports progress in the async context of the call', async () => {
    const context = new AsyncLocalStorage<string>();
    const count = offload(function count(this: { progress(value: unknown): void }, to: number) {
      for (let n = 1; n <= to; n++) this.progress({ n });
      return 'counted';
    });
    const callAs = (name: string) =>
      context.run(name, async () => {
        const seen: unknown[] = [];
        const onProgress = (value: unknown) => seen.push([context.getStore(), value]);
        expect(await count.with({ onProgress })(2)).toBe('counted');
        expect(context.getStore()).toBe(name);
        return seen;
      });
    expect(await Promise.all([callAs('a'), callAs('b')])).toEqual([
      [
        ['a', { n: 1 }],
        ['a', { n: 2 }],
      ],
      [
        ['b', { n: 1 }],
        ['b', { n: 2 }],
      ],
    ]);
  });
});

describe('arguments and results', () => {
  it('are cloned: what they are is what arrives', async () => {
    const value = {
      map: new Map([[{ a: 1 }, new Set([1n])]]),
      date: new Date(0),
      pattern: /x/giu,
      numbers: [Number.NaN, -0, Number.POSITIVE_INFINITY, undefined, null],
      floats: new Float64Array([0.5]),
      buffer: new Uint8Array([1, 2]).buffer,
    };
    expect(await echo(value)).toEqual(value);
    expect(await echo(undefined)).toBe(undefined);
    expect(Buffer.isBuffer(await echo(Buffer.from('bytes')))).toBe(true);
  });

  it.each([
    new Uint8Array([1, 2, 3]),
    new Float64Array([1, 2, 3]),
    new BigInt64Array([1n]),
    new DataView(new ArrayBuffer(3)),
    new Uint16Array(new Uint16Array([1, 2, 3, 4]).buffer, 2, 2),
  ])('have, of a view such as %p, a buffer of their own with nothing else in it', async (view) => {
    const extent = offload((_pad: string, { byteOffset, buffer }: ArrayBufferView) => [byteOffset, buffer.byteLength]);
    const same = offload((pad: string, value: ArrayBufferView) => ({ pad, value }));
    for (const pad of ['', 'x', 'xx', 'xxxxx']) {
      expect(await extent(pad, view)).toEqual([0, view.byteLength]);
      const { value } = await same(pad, view);
      expect(value).toEqual(view);
      expect([value.byteOffset, value.buffer.byteLength]).toEqual([0, view.byteLength]);
    }
  });

  it('keep cycles and shared parts', async () => {
    const shared = {};
    const circular: { a: object; b: object; self?: unknown } = { a: shared, b: shared };
    circular.self = circular;
    const back = await echo(circular);
    expect(back.self).toBe(back);
    expect(back.a).toBe(back.b);
  });

  it('may be 50 MB both ways', async () => {
    const megabytes = Buffer.alloc(50 * 1024 ** 2, 'unblock');
    const back = await echo(megabytes);
    expect(back.equals(megabytes)).toBe(true);
    const long = 'é'.repeat(25 * 1024 ** 2);
    expect((await echo(long)) === long).toBe(true);
  }, 30_000);

  it('which cannot be cloned are refused by name, before any worker is involved', async () => {
    const send = offload(function send(..._all: unknown[]) {});
    await expect(send(1, () => {})).rejects.toMatchObject({
      code: 'ERR_UNBLOCK_NOT_SERIALIZABLE',
      message: expect.stringContaining('Argument 2 of send'),
    });
    await expect(send(Symbol('s'))).rejects.toMatchObject({ message: expect.stringContaining('Argument 1') });
  });

  it('and results that are arrays with more than their items cross as such, or are refused by name', async () => {
    const pid = await pidOf();
    const same = offload((list: unknown) => list);
    expect(await same(Object.assign(['a'], { total: 1 }))).toEqual(Object.assign(['a'], { total: 1 }));
    await expect(same(Object.assign(['a'], { total() {} }))).rejects.toMatchObject({
      code: 'ERR_UNBLOCK_NOT_SERIALIZABLE',
    });
    const made = offload((..._all: unknown[]) => Object.assign([1], { total() {} }));
    await expect(made()).rejects.toMatchObject({ code: 'ERR_UNBLOCK_NOT_SERIALIZABLE' });
    const app = express();
    app.get(
      '/',
      made.handler(() => Object.assign([], { total() {} })),
    );
    app.use(problemDetails());
    const { body } = await request(app).get('/');
    expect(body).toMatchObject({ status: 500, code: 'ERR_UNBLOCK_NOT_SERIALIZABLE' });
    expect(await pidOf()).toBe(pid);
  });

  it('that are a request, as where a function is used as a handler, are told the way out', async () => {
    const send = offload(function send(..._all: unknown[]) {}) as (...args: unknown[]) => Promise<void>;
    const app = express();
    app.get('/', (req, res, next) => {
      send(req, res, next).catch(({ message }) => res.json(message));
    });
    const { body } = await request(app).get('/');
    expect(body).toBe(
      'Argument 1 of send cannot be sent between processes: it is a request or a response. ' +
        'As a handler use run.handler((req) => [req.body]), which picks what the task needs',
    );
  });

  it('which cannot be cloned on the way back are an error that leaves the worker usable', async () => {
    const pid = await pidOf();
    const bad = offload(function bad() {
      return { later: () => {} };
    });
    await expect(bad()).rejects.toMatchObject({
      code: 'ERR_UNBLOCK_NOT_SERIALIZABLE',
      status: 500,
      message: expect.stringContaining('result of bad'),
    });
    expect(await pidOf()).toBe(pid);
  });

  it('nested too deep to be read back are an error of that call alone', async () => {
    const nest = offload((depth: number) => {
      let value: unknown = 1;
      for (let n = 0; n < depth; n++) value = { value };
      return value;
    });
    const outcomes = await Promise.allSettled([1000, 3000, 5000, 7000, 10_000, 100_000].map((depth) => nest(depth)));
    expect(outcomes[0]?.status).toBe('fulfilled');
    expect(outcomes.at(-1)?.status).toBe('rejected');
    expect(await add(1, 1)).toBe(2);
  });
});

describe('run.handler', () => {
  it('that is itself given to a route tells it what to write instead', async () => {
    const send = offload(() => 1);
    const app = express();
    app.get('/', send.handler as never);
    app.use(problemDetails({ expose: true }));
    const { body } = await request(app).get('/');
    expect(body).toMatchObject({
      code: 'ERR_UNBLOCK_BAD_OPTION',
      detail: expect.stringMatching(
        /pick must be a function, got a request: .* what run\.handler\(\(req\) => \[req\.body\]\)/,
      ),
    });
  });
});

describe('options', () => {
  const fn = () => 1;

  it.each([
    [() => offload(5 as never), /the first argument must be a function, got 5/],
    [() => offload(fn, { timeout: 0 }), /timeout must be 1 to 2147483647 ms, got 0/],
    [() => offload(fn, { reclaim: 'stop' as never }), /reclaim must be "interrupt" or "kill", got "stop"/],
    [() => offload(fn, { reclaim: null as never }), /reclaim must be "interrupt" or "kill", got null/],
    [() => offload(fn, { timeout: null as never }), /timeout must be .* got null/],
    [() => createPool({ workers: null as never }), /workers must be an integer of 1 or more, got null/],
    [() => createPool({ maxQueue: null as never }), /maxQueue must be .* got null/],
    [() => createPool({ env: { A: 5 } as never }), /env must be an object of strings/],
    [() => timeout(1, { until: null as never }), /until must be "head" or "response", got null/],
    [() => problemDetails({ expose: null as never }), /expose must be true or false, got null/],
    [() => offload.module(new URL('http://x/y')), /url must be .* got "http:\/\/x\/y"/],
    [() => offload(fn, { pool: {} as never }), /pool must be made by createPool\(\), got an object/],
    [
      () => offload(fn, createPool() as never),
      /^offload: options must be an object such as \{ pool \}, got the pool itself$/,
    ],
    [
      () => offload.module(__filename, createPool() as never),
      /^offload\.module: options must be .* such as \{ pool \}/,
    ],
    [() => offload(fn, { time: 5 } as never), /unknown option "time"/],
    [() => offload(fn).with({ signal: 'x' as never }), /signal must be an AbortSignal, got "x"/],
    [() => offload(fn).with({ timeout: '5 parsecs' }), /timeout must be .* got "5 parsecs"/],
    [() => offload(fn).with({ onProgress: 1 as never }), /onProgress must be a function, got 1/],
    [() => offload(fn).handler(undefined as never), /pick must be a function, got undefined/],
    [() => offload.module('./tasks.mjs'), /url must be a file URL .* got "\.\/tasks\.mjs"/],
    [() => offload.module('/nowhere/tasks.mjs'), /url must be a module that exists, got "\/nowhere\/tasks.mjs"/],
    [() => offload.module(__dirname), /url must be a module that exists, got/],
    [() => offload.module('file://host/tasks.mjs'), /url must be a file URL .* got "file:\/\/host\/tasks.mjs"/],
    [() => offload.module(new URL('file:///a%2Fb.mjs')), /url must be a file URL .* got "file:\/\/\/a%2Fb.mjs"/],
  ])('that cannot work are refused where they are written: %s', (write, message) => {
    expect(write).toThrow(message);
    expect(write).toThrow(expect.objectContaining({ code: 'ERR_UNBLOCK_BAD_OPTION', name: 'TypeError' }));
  });
});
