import fc from 'fast-check';
import { DeadlineQueue, type Waiting } from '../lib/pool/queue';

interface Item extends Waiting {
  isFeasible: boolean;
}

const inOrder = (a: Item, b: Item) => a.deadlineAt - b.deadlineAt || a.id - b.id;

describe('DeadlineQueue', () => {
  const step = fc.oneof(
    { weight: 3, arbitrary: fc.record({ do: fc.constant('add' as const), at: fc.integer({ min: 0, max: 9 }) }) },
    fc.record({ do: fc.constant('take' as const), at: fc.constant(0) }),
    fc.record({ do: fc.constant('delete' as const), at: fc.nat() }),
    fc.record({ do: fc.constant('turn' as const), at: fc.nat() }),
  );

  it('gives out what a sorted list would, whatever comes, goes and leaves in between', () => {
    fc.assert(
      fc.property(fc.array(step, { maxLength: 200 }), (steps) => {
        const queue = new DeadlineQueue<Item>();
        let model: Item[] = [];
        /** What had its turn when it was not feasible. */
        const tight = new Set<Item>();
        const next = () => {
          model.sort(inOrder);
          for (const item of model.filter((item) => tight.has(item))) {
            if (!item.isFeasible) break;
            tight.delete(item);
          }
          const first = model.find((item) => {
            if (!item.isFeasible) tight.add(item);
            return !tight.has(item);
          });
          const taken = first ?? model[0];
          model = model.filter((item) => item !== taken);
          return taken;
        };
        for (const [id, { do: action, at }] of steps.entries()) {
          if (action === 'add') {
            const item = { deadlineAt: at, id, place: -1, isFeasible: true };
            queue.add(item);
            model.push(item);
          } else if (action === 'take') {
            expect(queue.take()).toBe(next());
          } else {
            const item = model[at % Math.max(1, model.length)];
            if (item === undefined) continue;
            if (action === 'turn') {
              item.isFeasible = !item.isFeasible;
              continue;
            }
            model = model.filter((other) => other !== item);
            expect([queue.delete(item), queue.delete(item)]).toEqual([true, false]);
          }
          expect(queue.size).toBe(model.length);
        }
        while (model.length > 0) expect(queue.take()).toBe(next());
        expect(queue.take()).toBe(undefined);
      }),
      { numRuns: 300 },
    );
  });

  it('compares each item a few times only, however long it is', () => {
    const costAt = (length: number) => {
      const queue = new DeadlineQueue<Item>();
      let looks = 0;
      const itemAt = (id: number) => ({
        get deadlineAt() {
          looks++;
          return (id * 7919) % 104_729;
        },
        id,
        place: -1,
        isFeasible: true,
      });
      const items = Array.from({ length }, (_, id) => itemAt(id));
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
