import { IncomingMessage, ServerResponse } from 'node:http';
import { Socket } from 'node:net';
import { type Deadline, timeout } from 'express-unblock';
import { Heap as BuiltHeap } from '../../dist/heap';
import { Heap } from '../../lib/heap';
import { expireAtRandom, type Limited } from '../support/expiries';

const COUNT = 50_000;

/** The heaps that something was added to. */
const heaps = new Set<{ size: number }>();

for (const { prototype } of [Heap, BuiltHeap]) {
  const { add } = prototype;
  prototype.add = function (item) {
    heaps.add(this);
    add.call(this, item);
  };
}

/** A request as Express hands it to `timeout()`, without a network that would take longer than the limits. */
function beginRequest(ms: number, passed: () => void): Limited {
  const req = Object.assign(new IncomingMessage(new Socket()), { method: 'GET', complete: true });
  const res = new ServerResponse(req);
  const close = () => void res.emit('close');
  timeout(ms)(req, res, (error) => {
    if (error === undefined) return;
    passed();
    close();
  });
  // With when it passes, which users see as what remains.
  const { deadline } = req as unknown as { deadline: Deadline & { at: number } };
  const answer = () => {
    Object.defineProperty(res, 'writableFinished', { value: true });
    close();
  };
  const ends = [close, answer, () => deadline.clear()];
  return {
    get at() {
      return deadline.at;
    },
    set: (ms) => deadline.extend(ms),
    clear: ends[Math.floor(Math.random() * ends.length)] as () => void,
  };
}

it.each([
  ['expiries', undefined],
  ['requests behind timeout()', beginRequest],
])(
  'fifty thousand %s with random limits pass in order and in time, and leave nothing',
  async (_, begin) => {
    heaps.clear();
    await expireAtRandom({ count: COUNT, lasting: COUNT / 2.5, longest: 5_000, ...(begin && { begin }) });
    expect([...heaps].map(({ size }) => size)).toEqual([0]);
  },
  120_000,
);
