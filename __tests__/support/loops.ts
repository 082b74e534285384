import { createPool, offload, type WorkerPool } from 'express-unblock';

/** Loops that never end, of every kind. Their texts are compiled in a worker. */
export const LOOPS: Record<string, () => unknown> = {
  arithmetic: () => {
    for (let n = 1; ; n++) n = (n * 31) % 1_000_003;
  },
  strings: () => {
    for (;;) {
      let text = '';
      for (let n = 0; n < 1000; n++) text += n;
      text.slice(1);
    }
  },
  allocation: () => {
    for (let list: unknown[] = []; ; list = list.length > 1000 ? [] : list) list.push({ list: [list.length], at: {} });
  },
  'a regular expression': () => {
    for (;;) /^(a+)+$/.test(`${'a'.repeat(40)}!`);
  },
  'short regular expressions': () => {
    for (;;) 'a=1; b=2; c=3'.replace(/(\w)=(\d)/g, '$2=$1');
  },
  sorting: () => {
    for (;;) Array.from({ length: 5000 }, (_, n) => (n * 7919) % 5003).sort((a, b) => a - b);
  },
  recursion: () => {
    const fibonacci = (n: number): number => (n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2));
    for (;;) fibonacci(25);
  },
  'typed arrays': () => {
    for (const bytes = new Uint8Array(1 << 16); ; )
      for (let n = 1; n < bytes.length; n++) bytes[n] = (bytes[n - 1] ?? 0) + n;
  },
  maps: () => {
    for (const map = new Map<number, number>(); ; ) {
      for (let n = 0; n < 1000; n++) map.set(n, (map.get(n) ?? 0) + 1);
    }
  },
  'nested calls': () => {
    const inner = (n: number): number => Math.sqrt(n) + 1;
    const middle = (n: number): number => inner(n) + inner(n + 1);
    const outer = (n: number): number => middle(n) * middle(n + 2);
    for (let n = 0; ; n = outer(n) % 1000);
  },
  WebAssembly: () => {
    // (module (func (export "spin") (loop br 0)))
    const bytes = [0, 97, 115, 109, 1, 0, 0, 0, 1, 4, 1, 96, 0, 0, 3, 2, 1, 0, 7, 8, 1, 4, 115, 112, 105, 110, 0, 0];
    const code = [10, 9, 1, 7, 0, 3, 64, 12, 0, 11, 11];
    const { WebAssembly } = globalThis as any;
    const module = new WebAssembly.Module(Uint8Array.from([...bytes, ...code]));
    new WebAssembly.Instance(module).exports.spin();
  },
};

/** Where V8 serves no interrupt: these end in a kill, often or always, depending on its version. */
export const OVERLOOKED: typeof LOOPS = {
  'JSON.parse': () => {
    for (const text = JSON.stringify(Array.from({ length: 1000 }, (_, n) => ({ n }))); ; ) JSON.parse(text);
  },
  'array methods within array methods': () => {
    for (;;) [1, 2, 3].map((a) => [4, 5].filter((b) => b > a).reduce((sum, b) => sum + b, 0));
  },
};

export interface Aborted {
  readonly isKept: boolean;
  /** From the abort to the end of the next call, in milliseconds. */
  readonly backAfter: number;
}

/** Gives up one of the first calls of a new worker after so long, does something more, and runs another. */
export async function abortInFreshWorker(
  loop: () => unknown,
  after: number,
  andThen?: (pid: number) => void,
): Promise<Aborted> {
  await using pool = createPool({ workers: 1 });
  await pool.ready();
  return await abortIn(pool, loop, after, andThen); // Before the pool is closed.
}

export async function abortIn(
  pool: WorkerPool,
  loop: () => unknown,
  after: number,
  andThen: (pid: number) => void = () => {},
): Promise<Aborted> {
  const pidOf = offload(() => process.pid, { pool });
  const before = await pidOf();
  const stop = new AbortController();
  const call = offload(loop, { pool })
    .with({ signal: stop.signal })()
    .catch((error) => error);
  await new Promise((resolve) => setTimeout(resolve, after));
  const abortedAt = performance.now();
  stop.abort();
  andThen(before);
  const pid = await pidOf();
  const backAfter = performance.now() - abortedAt;
  // No interrupt may be left for the calls behind it.
  const compute = offload(
    (ms: number) => {
      for (const end = performance.now() + ms; performance.now() < end; );
    },
    { pool },
  );
  for (let n = 0; n < 3; n++) await compute(5);
  const error = await call;
  if ((error as Error).name !== 'AbortError') throw new Error(`The loop ended with ${error}`);
  return { isKept: pid === before, backAfter };
}
