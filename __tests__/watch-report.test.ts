import { watch } from 'express-unblock/watch';
import type { Block, Sample } from '../lib/watch/main-thread';
import { Reporter } from '../lib/watch/report';
import { cleanUp, messagesOn } from './support/keep-alive';

afterEach(cleanUp);

describe('options that cannot work are refused where they are written', () => {
  test.each([
    [{ threshold: 5 }, 'watch: threshold must be 10 to 2147483647 ms, got 5'],
    [{ threshold: 'soon' }, 'watch: threshold must be 10 to 2147483647 ms, got "soon"'],
    [{ exitAfter: 0 }, 'watch: exitAfter must be 1 to 2147483647 ms, got 0'],
    [{ log: 'stderr' }, 'watch: log must be a function, got "stderr"'],
    [{ limit: 100 }, 'watch: unknown option "limit", expected threshold, exitAfter or log'],
  ])('%j', (options, message) => {
    const error = expect.objectContaining({ name: 'TypeError', code: 'ERR_UNBLOCK_BAD_OPTION', message });
    expect(() => watch(options as never)).toThrow(error);
  });
});

describe('what is told', () => {
  const THRESHOLD_MS = 100;
  let lines: string[];
  let reporter: Reporter;

  beforeEach(() => {
    jest.useFakeTimers();
    lines = [];
    reporter = new Reporter((line) => lines.push(line), THRESHOLD_MS);
  });

  afterEach(() => {
    reporter.stop();
    jest.useRealTimers();
  });

  test('one line for each place in ten seconds; the next has the count and the worst', () => {
    for (const ms of [200, 900, 300]) reporter.onBlock(block({ ms }));
    reporter.onBlock(block({ ms: 250, sites: [site('elsewhere')] }));
    expect(lines).toEqual([
      'express-unblock: GET /work blocked the event loop for 200 ms in here (/app/app.js:7): wrap it with offload()',
      'express-unblock: GET /work blocked the event loop for 250 ms in elsewhere (/app/app.js:7): wrap it with offload()',
    ]);
    jest.advanceTimersByTime(10_000);
    expect(lines.slice(2)).toEqual([
      expect.stringMatching(/ for 300 ms in here .*: wrap it with offload\(\) \(2 times in 10 s, worst 900 ms\)$/),
    ]);

    reporter.onBlock(block({ ms: 150 }));
    jest.advanceTimersByTime(60_000);
    reporter.onBlock(block({ ms: 160 }));
    expect(lines.slice(3)).toEqual([
      expect.stringMatching(/ for 150 ms in here .*offload\(\)$/),
      expect.stringMatching(/ for 160 ms in here .*offload\(\)$/),
    ]);
  });

  test.each<[string, () => unknown]>([
    [
      'throws',
      () => {
        throw new Error('disk full');
      },
    ],
    ['rejects', () => Promise.reject(new Error('disk full'))],
  ])('a log that %s ends in a warning, and the watch goes on', async (_, log) => {
    const warned = new Promise((resolve) => jest.spyOn(process, 'emitWarning').mockImplementationOnce(resolve));
    reporter = new Reporter(log as () => void, THRESHOLD_MS);
    reporter.onBlock(block({ ms: 200 }));
    expect(await warned).toBe('The log of watch() failed: Error: disk full');
  });

  test('the channel has every block', () => {
    const { all } = messagesOn('express-unblock:blocked');
    for (const ms of [200, 900.4]) reporter.onBlock(block({ ms, cpuMs: 180 }));
    expect(all[1]).toEqual({
      route: 'GET /work',
      ms: 900,
      cpuMs: 180,
      at: 'here (/app/app.js:7)',
      advice: 'wrap it with offload()',
      stack: '    at here (/app/app.js:7:3)',
    });
    expect(all).toHaveLength(2);
    expect(lines).toHaveLength(1);
  });

  test('nothing of a thread that had no CPU time, as on a starved machine or at a breakpoint', () => {
    reporter.onBlock(block({ ms: 150, cpuMs: 40 }));
    reporter.onBlock(block({ ms: 5000, cpuMs: 100 }));
    expect(lines).toEqual([]);
    reporter.onBlock(block({ ms: 5000, cpuMs: 400 }));
    expect(lines).toEqual([expect.stringContaining('(it had 400 ms of CPU time: the machine is busy)')]);
  });

  test('a synchronous call that waits needs no CPU time', () => {
    const sites = [site('spawnSync', 'node:child_process'), site('execSync', 'node:child_process'), site('here')];
    reporter.onBlock(block({ ms: 500, cpuMs: 1, sites }));
    expect(lines).toEqual([expect.stringMatching(/500 ms in here \(.*\), execSync: use exec\(\) instead$/)]);
  });

  test('nothing where two samples do not agree: many short callbacks are no block', () => {
    reporter.onBlock({ ...block({ ms: 150 }), samples: [sample({ request: {} }), sample({ request: {} })] });
    reporter.onBlock({ ...block({ ms: 150 }), samples: [sample({})] });
    expect(lines).toEqual([]);
  });

  test('one sample is enough where native code kept it waiting', () => {
    reporter.onBlock({ ...block({ ms: 150 }), samples: [sample({ late: true })] });
    expect(lines).toEqual([expect.stringContaining('in here (/app/app.js:7), in native code just before:')]);
  });

  test('that most of the time was garbage collection', () => {
    reporter.onBlock({ ...block({ ms: 200 }), gcMs: 150 });
    expect(lines).toEqual([expect.stringContaining('(garbage collection took 150 ms of it)')]);
  });

  test('nothing of what nobody could change: the engine’s and Node’s own work', () => {
    const sites = [site('processTicksAndRejections', 'node:internal/process/task_queues')];
    reporter.onBlock(block({ ms: 300, sites }));
    expect(lines).toEqual([]);
  });

  function block({ ms, cpuMs = ms, sites }: { ms: number; cpuMs?: number; sites?: NodeJS.CallSite[] }): Block {
    const samples = [sample({ sites }), sample({ sites })];
    return { ms, cpuMs, gcMs: 0, samples };
  }

  const request = { method: 'GET', url: '/work' };

  function sample({
    sites = [site('here')],
    ...rest
  }: {
    sites?: NodeJS.CallSite[] | undefined;
    late?: boolean;
    request?: object;
  }) {
    const question = site('');
    const defaults = { weight: 50, late: false, request, route: undefined, baseUrl: undefined, answered: false };
    return { ...defaults, ...rest, sites: [question, ...sites] } as unknown as Sample;
  }

  function site(name: string, file = '/app/app.js') {
    return {
      getFunctionName: () => name,
      getTypeName: () => null,
      getScriptNameOrSourceURL: () => file,
      getEvalOrigin: () => undefined,
      getLineNumber: () => 7,
      getColumnNumber: () => 3,
      getEnclosingLineNumber: () => 5,
      getEnclosingColumnNumber: () => 1,
      isAsync: () => false,
    } as unknown as NodeJS.CallSite;
  }
});
