import { channel } from 'node:diagnostics_channel';
import { EventEmitter } from 'node:events';
import { pathToFileURL } from 'node:url';
import fc from 'fast-check';
import { clientClosed } from '../lib/errors';
import type { Call, Ending, Task } from '../lib/pool/call';
import { Pool } from '../lib/pool/pool';
import { RunTimes } from '../lib/pool/run-times';
import { type Outcome, packThrown, type WorkerEvent } from '../lib/wire';
import { openLedger } from '../lib/worker/cells';
import { fixture } from './support/workers';

/**
 * The pool as it is, on child processes that are made of nothing but the events they would cause, so that thousands of
 * lives with every order of these fit into a second. The clock is one of the events.
 */
const mockMade: PretendedProcess[] = [];
/** What must never be asked of them, and was. */
const mockBroken: string[] = [];

jest.mock('workerpool', () => ({
  __esModule: true,
  default: {
    pool(_script: string, { forkArgs }: { forkArgs: string[] }) {
      const made = new PretendedProcess(forkArgs[1] as string);
      mockMade.push(made);
      return { exec: (...call: Parameters<PretendedProcess['exec']>) => made.exec(...call) };
    },
  },
}));

interface Listening {
  on?: (event: WorkerEvent) => void;
}

/** What a worker process does, seen from its parent. */
class PretendedProcess extends EventEmitter {
  /** No process may have it, nor lead a group of it. */
  readonly pid = 2 ** 30 + mockMade.length;
  readonly channel = { unref() {} };
  connected = true;
  gone = false;
  /** In native code, or after an `await`: a SIGINT lands, but ends nothing. */
  #deaf = false;
  running: number | undefined;
  /** It was left with the half-done state of a call whose worker is to be killed. */
  unfit = false;
  readonly #note: (call: number) => void;
  #announced = false;
  #asked = '';
  #urls: string[] = [];
  /** A signal was sent for the call before, and may come late. */
  #signalled = false;
  #answer = deferred();
  #emit: (event: WorkerEvent) => void = () => {};

  constructor(ledger: string) {
    super();
    this.#note = openLedger(ledger).note;
  }

  exec(method: string, params: unknown[] = [], { on }: Listening = {}): Promise<unknown> {
    if (!this.#announced) channel('child_process').publish({ process: this });
    this.#announced = true;
    if (method === 'load' && this.gone) return Promise.reject(new Error('It is gone'));
    if (this.gone || this.unfit) mockBroken.push(`${method} in a process that is ${this.gone ? 'gone' : 'unfit'}`);
    this.#asked = method;
    this.#answer = deferred();
    if (method === 'load') this.#urls = params[0] as string[];
    else {
      const [call, , , , , careful] = params as [number, number, unknown, unknown, string, boolean];
      if (careful !== this.#signalled) mockBroken.push(`run with a signal on its way: ${this.#signalled}`);
      this.#signalled = false;
      onRun(call);
      this.running = call;
      this.#emit = on as (event: WorkerEvent) => void;
    }
    return this.#answer.promise;
  }

  get isImporting(): boolean {
    return this.#asked === 'load';
  }

  comeUp(): void {
    if (this.isImporting) this.#answer.resolve(this.#urls);
    this.#asked = '';
  }

  finish(ok: boolean): void {
    const { running } = this;
    if (running === undefined) return;
    this.#begin(running);
    this.running = undefined;
    const body = ok ? { plain: running } : packThrown(new Error(`of ${running}`));
    this.#answer.resolve({ ok, body } satisfies Outcome);
  }

  die(begun: boolean, exitCode: number | null, signal: NodeJS.Signals | null): void {
    if (this.gone) return;
    if (begun && this.running !== undefined) this.#begin(this.running);
    this.gone = true;
    this.running = undefined;
    this.#answer.reject(new Error('It died'));
    this.emit('exit', exitCode, signal);
  }

  /** Its task looks at the abort signal: it may end by itself. */
  listen(): void {
    if (this.running !== undefined) this.#emit({ call: this.running, listens: true });
  }

  deafen(): void {
    this.#deaf = true;
  }

  /** The connection fails, and the process lives on. */
  lose(): void {
    this.connected = false;
    this.#answer.reject(new Error('It does not answer'));
  }

  kill(signal: NodeJS.Signals): void {
    if (signal === 'SIGKILL') {
      setImmediate(() => this.die(true, null, signal));
      return;
    }
    this.#signalled = true;
    const { running } = this;
    setTimeout(() => {
      if (!this.#deaf && running === this.running) this.finish(false);
    }, 1);
  }

  disconnect(): void {
    this.connected = false;
    setImmediate(() => this.die(true, 0, null));
  }

  send(): void {}
  unref(): void {}

  #begin(call: number): void {
    this.#note(call);
    const { ending, task } = onBegin(call);
    this.unfit = ending !== undefined && task.reclaim === 'kill';
  }
}

function deferred() {
  let resolve!: (value: unknown) => void;
  let reject!: (error: unknown) => void;
  const promise = new Promise((...both) => {
    [resolve, reject] = both;
  });
  // Nobody may be waiting.
  promise.catch(() => {});
  return { promise, resolve, reject };
}

let onRun: (call: number) => void;
let onBegin: (call: number) => Call;

/** What a call that was not the task's to end may reject with. */
const CODES = {
  timedOut: ['ERR_UNBLOCK_TIMEOUT'],
  cancelled: ['ERR_UNBLOCK_CLIENT_CLOSED', DOMException.ABORT_ERR],
  refused: ['ERR_UNBLOCK_QUEUE_FULL', 'ERR_UNBLOCK_POOL_CLOSED'],
  died: ['ERR_UNBLOCK_WORKER_DIED'],
};

type What = (typeof FREQUENT | typeof SOMETIMES | typeof RARE)[number];
const FREQUENT = ['arrive', 'arrive', 'comeUp', 'succeed'] as const;
const SOMETIMES = ['fail', 'listen', 'deafen', 'abort', 'leave', 'wait', 'die', 'dieBefore', 'lose'] as const;
const RARE = ['abortAll', 'close'] as const;

const event = fc.record({
  what: fc.oneof(
    { weight: 20, arbitrary: fc.constantFrom<What>(...FREQUENT) },
    { weight: 15, arbitrary: fc.constantFrom<What>(...SOMETIMES) },
    { weight: 1, arbitrary: fc.constantFrom<What>(...RARE) },
  ),
  which: fc.nat({ max: 1000 }),
});
const settings = fc.record({
  workers: fc.integer({ min: 1, max: 3 }),
  spare: fc.integer({ min: 0, max: 1 }),
  maxQueue: fc.integer({ min: 0, max: 8 }),
  warm: fc.boolean(),
});

/** After that long no worker still runs a call that was given up. */
const TAKEN_BACK_MS = 150;

interface Made {
  readonly call: Call;
  readonly abort: AbortController;
  /** What its promise came to, as often as it did. */
  readonly settled: unknown[];
}

describe('a pool and its calls', () => {
  beforeEach(() => jest.useFakeTimers());
  afterEach(() => jest.useRealTimers());

  it('end each call once with what is its own, run none that has ended, and leave nothing, in whatever order', async () => {
    await fc.assert(
      fc.asyncProperty(
        settings,
        fc.array(event, { maxLength: 80 }),
        async ({ workers, spare, maxQueue, warm }, events) => {
          jest.clearAllTimers();
          mockMade.length = 0;
          mockBroken.length = 0;
          const calls: Made[] = [];
          const begun = new Set<number>();
          const find = (id: number) => calls.find(({ call }) => call.id === id)?.call as Call;
          onRun = (id) => {
            const { ending, args } = find(id);
            if (ending !== undefined || args === undefined) mockBroken.push(`run of a call that has ${ending}`);
            if (begun.has(id)) mockBroken.push('run of a call that had begun before');
          };
          onBegin = (id) => {
            begun.add(id);
            return find(id);
          };
          const pool = new Pool({ workers, minWorkers: warm ? 1 : 0, spare, maxQueue });
          const tasks = Array.from({ length: 6 }, (_, id): Task => {
            const reclaim = id % 2 ? 'interrupt' : 'kill';
            // Some are imported by new workers, some when a call needs them.
            const url = `${pathToFileURL(fixture('plain.cjs'))}?${id % 3}`;
            if (id < 2) pool.accept({ kind: 'module', url });
            return { id, definition: { kind: 'module', name: 'task', url }, reclaim, times: new RunTimes() };
          });
          const shared = new AbortController();
          const live = () => mockMade.filter(({ gone }) => !gone);
          const childAt = (which: number) => live()[which % Math.max(1, live().length)];
          const callAt = (which: number) => calls[which % Math.max(1, calls.length)];

          const arrive = (which: number) => {
            const abort = new AbortController();
            const task = tasks[which % tasks.length] as Task;
            const limits = {
              timeout: 1 + which,
              request: undefined,
              // As offload() does, which looks before whether a signal has aborted.
              signals: shared.signal.aborted ? [abort.signal] : [abort.signal, shared.signal],
              onProgress: undefined,
            };
            const settled: unknown[] = [];
            const settle = (end: unknown) => settled.push(end);
            pool
              .submit(task, { plain: [] }, limits, (call) => calls.push({ call, abort, settled }))
              .then(settle, settle);
          };

          const happenings: Record<What, (which: number) => void> = {
            arrive,
            comeUp: (which) => childAt(which)?.comeUp(),
            succeed: (which) => childAt(which)?.finish(true),
            fail: (which) => childAt(which)?.finish(false),
            listen: (which) => childAt(which)?.listen(),
            deafen: (which) => childAt(which)?.deafen(),
            die: (which) => childAt(which)?.die(true, which % 2 ? 1 : null, which % 2 ? null : 'SIGSEGV'),
            dieBefore: (which) => childAt(which)?.die(false, null, 'SIGKILL'),
            lose: (which) => childAt(which)?.lose(),
            abort: (which) => callAt(which)?.abort.abort(),
            abortAll: () => shared.abort(),
            leave: (which) => callAt(which)?.call.giveUp(clientClosed()),
            close: (which) => void pool.close({ grace: which }),
            wait() {},
          };

          for (const { what, which } of events) {
            happenings[what](which);
            await jest.advanceTimersByTimeAsync(what === 'wait' ? which : 0);
            expect(mockBroken).toEqual([]);
            const { busy, queued, workers: alive, spare: spares } = pool.stats();
            expect(alive).toBeLessThanOrEqual(workers);
            expect(spares).toBeLessThanOrEqual(spare);
            expect(live().length).toBeLessThanOrEqual(workers + spare);
            expect(busy).toBeLessThanOrEqual(alive);
            expect(queued).toBeLessThanOrEqual(maxQueue + workers);
            const running = live().map((child) => child.running);
            const isLost = ({ call }: Made) =>
              call.ending === undefined && call.place === -1 && !running.includes(call.id);
            // One that waits for the import of its module has a worker of its own.
            const importing = live().filter((child) => child.isImporting);
            expect(calls.filter(isLost).length).toBeLessThanOrEqual(importing.length);
          }
          const inVain = () =>
            live().flatMap(({ running }) =>
              running !== undefined && find(running).ending !== undefined ? running : [],
            );
          const before = inVain();
          await jest.advanceTimersByTimeAsync(TAKEN_BACK_MS);
          expect(inVain().filter((id) => before.includes(id))).toEqual([]);

          let closed = false;
          void pool.close({ grace: 50 }).then(() => {
            closed = true;
          });
          await jest.advanceTimersByTimeAsync(5000);
          expect(closed).toBe(true);

          const { busy, queued, workers: alive, spare: spares, wait, run, functions, ...ended } = pool.stats();
          expect([busy, queued, alive, spares, live().length, functions]).toEqual([0, 0, 0, 0, 0, []]);
          const counted = { completed: 0, failed: 0, timedOut: 0, cancelled: 0, refused: 0, died: 0 };
          for (const { call, settled } of calls) {
            const ending = call.ending as Ending;
            counted[ending]++;
            const [end, ...more] = settled as [{ code?: unknown; message?: unknown }];
            expect(more).toEqual([]);
            if (ending === 'completed') expect(end).toBe(call.id);
            else if (ending === 'failed') expect(end.message).toBe(`of ${call.id}`);
            else expect(CODES[ending]).toContain(end.code);
            expect([call.args, call.place]).toEqual([undefined, -1]);
          }
          expect(mockBroken).toEqual([]);
          expect(ended).toEqual(counted);
          expect(jest.getTimerCount()).toBe(0);
        },
      ),
      { numRuns: 500 },
    );
  }, 120_000);

  it('do not wait for a worker that is not up within 30 s, and leave one alone that is', async () => {
    mockMade.length = 0;
    const pool = new Pool({ workers: 1 });
    const failed: unknown[] = [];
    pool.ready().catch((error) => failed.push(error));
    await jest.advanceTimersByTimeAsync(29_999);
    expect([failed, mockMade.map(({ gone }) => gone)]).toEqual([[], [false]]);
    await jest.advanceTimersByTimeAsync(10);
    expect(failed).toMatchObject([{ code: 'ERR_UNBLOCK_WORKER_DIED', signal: 'SIGKILL' }]);

    let isUp = false;
    pool.ready().then(() => {
      isUp = true;
    });
    await jest.advanceTimersByTimeAsync(29_999);
    mockMade[1]?.comeUp();
    await jest.advanceTimersByTimeAsync(10);
    expect([isUp, mockMade.map(({ gone }) => gone)]).toEqual([true, [true, false]]);
    void pool.close();
    await jest.advanceTimersByTimeAsync(1000);
    expect(jest.getTimerCount()).toBe(0);
  });
});
