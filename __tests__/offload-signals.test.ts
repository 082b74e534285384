import { getEventListeners } from 'node:events';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { closePools, createPool, offload } from 'express-unblock';

jest.setTimeout(30_000); // Processes start, on however busy a machine.

afterAll(() => closePools({ grace: 0 }));

setFlagsFromString('--expose-gc');
const collect = runInNewContext('gc') as () => void;
const nextTurn = () => new Promise((resolve) => setImmediate(resolve));

const pool = createPool({ workers: 1 });
const echo = offload((value: unknown) => value, { pool });
const throws = offload(
  () => {
    throw new Error('on purpose');
  },
  { pool },
);
const hangs = offload(() => new Promise(() => {}), { pool });
const listenersOn = (signal: AbortSignal) => getEventListeners(signal, 'abort').length;

describe('the signal of a call', () => {
  it.each([
    ['returned', (signal: AbortSignal) => echo.with({ signal })(1)],
    ['threw', (signal: AbortSignal) => throws.with({ signal })()],
    ['took arguments that cannot be sent', (signal: AbortSignal) => echo.with({ signal })(() => {})],
    ['ran out of time', (signal: AbortSignal) => hangs.with({ signal, timeout: 5 })()],
    [
      'found no room to wait',
      async (signal: AbortSignal) => {
        await using small = createPool({ workers: 1, maxQueue: 0 });
        const run = offload(() => 1, { pool: small });
        await Promise.allSettled([run(), run.with({ signal })()]);
      },
    ],
    [
      'found its pool closed',
      async (signal: AbortSignal) => {
        const closed = createPool();
        await closed.close();
        await offload(() => 1, { pool: closed }).with({ signal })();
      },
    ],
  ])('has no listener of ours once the call %s', async (_, call) => {
    const { signal } = new AbortController();
    await call(signal).catch(() => {});
    expect(listenersOn(signal)).toBe(0);
  });

  it('has one listener, however many calls share it, and none after the last of them', async () => {
    const { signal } = new AbortController();
    const first = echo.with({ signal })(1);
    const calls = Array.from({ length: 500 }, () => echo.with({ signal })(1));
    expect(listenersOn(signal)).toBe(1);
    await first;
    expect(listenersOn(signal)).toBe(1);
    await Promise.all(calls);
    expect(listenersOn(signal)).toBe(0);
  });

  it('ends later calls, too, after it has had no call for a while', async () => {
    const controller = new AbortController();
    const { signal } = controller;
    await echo.with({ signal })(1);
    const calls = [hangs.with({ signal })(), echo.with({ signal })(2)];
    controller.abort(new Error('enough'));
    for (const call of calls) await expect(call).rejects.toThrow('enough');
    expect(listenersOn(signal)).toBe(0);
  });

  it.each([
    ['AbortSignal.any()', (shutdown: AbortSignal) => AbortSignal.any([new AbortController().signal, shutdown])],
    ['AbortSignal.timeout()', () => AbortSignal.timeout(60_000)],
  ])('made by %s is collected after its call', async (_, make) => {
    const shutdown = new AbortController();
    let collected = 0;
    const registry = new FinalizationRegistry(() => collected++);
    for (let n = 0; n < 50; n++) {
      const signal = make(shutdown.signal);
      registry.register(signal, undefined);
      await echo.with({ signal })(n);
    }
    for (let turn = 0; turn < 100 && collected < 45; turn++) {
      collect();
      await nextTurn();
    }
    expect(collected).toBeGreaterThanOrEqual(45);
    expect(shutdown.signal.aborted).toBe(false);
  });
});
