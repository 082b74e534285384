import fc from 'fast-check';
import { Call, type Ending, type Task } from '../lib/pool/call';
import { DeadlineQueue, type Waiting } from '../lib/pool/queue';

interface Item extends Waiting {
  deadlineAt: number;
}

const inOrder = (a: Item, b: Item) => a.deadlineAt - b.deadlineAt || a.sequence - b.sequence;

describe('DeadlineQueue', () => {
  const step = fc.oneof(
    { weight: 3, arbitrary: fc.record({ do: fc.constant('add' as const), at: fc.integer({ min: 0, max: 9 }) }) },
    fc.record({ do: fc.constant('take' as const), at: fc.constant(0) }),
    fc.record({ do: fc.constant('delete' as const), at: fc.nat() }),
  );

  it('gives out what a sorted list would, whatever comes, goes and leaves in between', () => {
    fc.assert(
      fc.property(fc.array(step, { maxLength: 200 }), (steps) => {
        const queue = new DeadlineQueue<Item>();
        let model: Item[] = [];
        for (const [sequence, { do: action, at }] of steps.entries()) {
          if (action === 'add') {
            const item = { deadlineAt: at, sequence, place: -1 };
            queue.add(item);
            model.push(item);
          } else if (action === 'take') {
            const first = model.sort(inOrder).shift();
            expect(queue.take()).toBe(first);
          } else {
            const item = model[at % Math.max(1, model.length)];
            if (item === undefined) continue;
            model = model.filter((other) => other !== item);
            expect([queue.delete(item), queue.delete(item)]).toEqual([true, false]);
          }
          expect(queue.size).toBe(model.length);
        }
        const rest = Array.from(model, () => queue.take());
        expect(rest).toEqual(model.sort(inOrder));
        expect(queue.take()).toBe(undefined);
      }),
      { numRuns: 300 },
    );
  });

  it('compares each item a few times only, however long it is', () => {
    const costAt = (length: number) => {
      const queue = new DeadlineQueue<Item>();
      let looks = 0;
      const itemAt = (sequence: number) => ({
        get deadlineAt() {
          looks++;
          return (sequence * 7919) % 104_729;
        },
        sequence,
        place: -1,
      });
      const items = Array.from({ length }, (_, sequence) => itemAt(sequence));
      for (const item of items) queue.add(item);
      looks = 0;
      for (let n = 0; n < 100; n++) {
        queue.add(itemAt(length + n));
        queue.delete(items[(n * 31) % length] as Item);
        queue.take();
      }
      return looks / 100;
    };
    // Three operations of at most four looks a level, on a heap of 17 levels.
    expect(costAt(100_000)).toBeLessThan(3 * 4 * 17);
    expect(costAt(100_000)).toBeLessThan(4 * costAt(100));
  });
});

/**
 * A model of a pool with one place to run: calls arrive, start, are given up, finish, die, in any order; what is late
 * comes all the same.
 */
describe("one call's life", () => {
  const task: Task = { id: 1, definition: { kind: 'module', name: 'task', url: 'file:///task.js' }, reclaim: 'kill' };
  const event = fc.record({
    what: fc.constantFrom('arrive', 'start', 'succeed', 'fail', 'abort', 'leave', 'expire', 'die', 'close'),
    which: fc.nat(),
  });

  it('ends once, whatever happens in which order, never runs after its end, and gives everything back', async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(event, { maxLength: 60 }), async (events) => {
        const queue = new DeadlineQueue<Call>();
        const ledger = { unsettled: 0, running: 0 };
        const calls: { call: Call; abort: AbortController; settled: string[]; ended: Ending[]; givenUp: number }[] = [];
        const released = new Set<Call>();
        const release = (call: Call) => {
          if (call.startedAt === undefined || released.has(call)) return;
          released.add(call);
          ledger.running--;
        };
        const shared = new AbortController();

        for (const { what, which } of events) {
          if (what === 'arrive') {
            const abort = new AbortController();
            ledger.unsettled++;
            const ended: Ending[] = [];
            const call = new Call(
              task,
              new Uint8Array(8),
              {
                timeout: 1 + (which % 1000),
                request: undefined,
                signals: [abort.signal, shared.signal],
                onProgress: undefined,
              },
              ({ ending }) => {
                ledger.unsettled--;
                ended.push(ending as Ending);
              },
            );
            const entry = { call, abort, settled: [] as string[], ended, givenUp: 0 };
            call.result.then(
              () => entry.settled.push('resolved'),
              () => entry.settled.push('rejected'),
            );
            calls.push(entry);
            // As the pool does, which looks before whether a signal has aborted.
            if (shared.signal.aborted) call.fail('cancelled', shared.signal.reason);
            else {
              queue.add(call);
              call.onGivenUp = () => {
                entry.givenUp++;
                queue.delete(call);
              };
            }
            continue;
          }
          if (what === 'start') {
            const call = queue.take();
            if (call === undefined) continue;
            expect(call.ending).toBe(undefined);
            expect(call.args).toBeDefined();
            call.startedAt = performance.now();
            ledger.running++;
            call.onGivenUp = () => release(call);
            continue;
          }
          if (what === 'close') {
            shared.abort(new Error('closed'));
            continue;
          }
          const entry = calls[which % Math.max(1, calls.length)];
          if (entry === undefined) continue;
          const { call, abort } = entry;
          const before = call.ending;
          if (what === 'abort') abort.abort();
          else if (what === 'leave') call.giveUp(Object.assign(new Error(), { code: 'ERR_UNBLOCK_CLIENT_CLOSED' }));
          else if (what === 'expire') call.giveUp(Object.assign(new Error(), { code: 'ERR_UNBLOCK_TIMEOUT' }));
          else if (call.startedAt !== undefined) {
            if (what === 'succeed') call.succeed(1);
            else call.fail(what === 'fail' ? 'failed' : 'died', new Error(what));
            release(call);
          }
          if (before !== undefined) expect(call.ending).toBe(before);
          if (call.ending !== undefined) expect(call.args).toBe(undefined);
        }

        for (const { call } of calls) {
          call.giveUp(new Error('the end'));
          release(call);
        }
        await new Promise(setImmediate);
        for (const { call, settled, ended, givenUp } of calls) {
          expect(settled).toEqual([call.ending === 'completed' ? 'resolved' : 'rejected']);
          expect(ended).toEqual([call.ending]);
          expect(givenUp).toBeLessThanOrEqual(1);
          expect(call.place).toBe(-1);
        }
        expect(ledger).toEqual({ unsettled: 0, running: 0 });
        expect(queue.size).toBe(0);
      }),
      { numRuns: 300 },
    );
  });

  it('ends by its own time', async () => {
    const call = new Call(
      task,
      new Uint8Array(),
      { timeout: 5, request: undefined, signals: [], onProgress: undefined },
      () => {},
    );
    await expect(call.result).rejects.toMatchObject({ code: 'ERR_UNBLOCK_TIMEOUT', timeout: 5 });
    expect(call.ending).toBe('timedOut');
  });
});
