import { execFileSync } from 'node:child_process';
import { deadLinks, Page, ReadersFolder } from '../support/markdown';
import { until, untilGone } from '../support/workers';

const page = new Page('docs/shutdown.md');
let reader: ReadersFolder;
beforeAll(() => {
  reader = new ReadersFolder();
});
afterEach(() => reader.stop());
afterAll(() => reader.remove());

/** The app that this process has started, and all that it has started, and they in turn. */
function processesOf(app: string): number[] {
  const lines = execFileSync('ps', ['-A', '-o', 'pid=,ppid=,args='], { encoding: 'utf8' }).trim().split('\n');
  const all = lines.map((line) => {
    const [, pid, ppid, args = ''] = /^ *(\d+) +(\d+) (.*)/.exec(line) ?? [];
    return { pid: Number(pid), ppid: Number(ppid), args };
  });
  const below = (parent: number): number[] =>
    all.filter(({ ppid }) => ppid === parent).flatMap(({ pid }) => [pid, ...below(pid)]);
  const roots = all.filter(({ ppid, args }) => ppid === process.pid && args.includes(app)).map(({ pid }) => pid);
  return roots.flatMap((root) => [root, ...below(root)]);
}

/** An instance that had nothing to do may be gone by now. */
function killAgain(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal);
  } catch (error) {
    expect(error).toMatchObject({ code: 'ESRCH' });
  }
}

describe('docs/shutdown.md', () => {
  it('links to nothing that is not there', () => {
    expect(deadLinks(page)).toEqual([]);
  });

  it.each([
    ['SIGTERM', 'Shutting down 1', '/primes/3000000', '216816', 2],
    ['SIGINT', 'Shutting down 1', '/primes/3000000', '216816', 2],
    ['SIGTERM', 'cluster 1', '/compute/800', 'computed for 800 ms', 4],
  ] as const)(
    'lets what is under way be answered when all processes get %s: %s',
    async (signal, block, path, body, least) => {
      const { app, client } = await reader.run(page.block(block));
      // A SIGINT in a worker's first moments can end its call: this one runs while the worker's keeper comes up.
      await client.get(path);
      const underWay = client.send('GET', path);
      await underWay.sent;
      await until(() => processesOf('app.js').length >= least);
      const all = processesOf('app.js');
      for (const pid of all) process.kill(pid, signal);
      for (const pid of all) killAgain(pid, signal);
      expect(await underWay.answer).toMatchObject({ status: 200, body });
      expect(await app.exited).toBe(0);
      await untilGone(...all);
    },
    30_000,
  );

  it('tells a client that keeps its connection, before it ends', async () => {
    const { app, client } = await reader.run(page.block('Shutting down 1'));
    const ask = async () => {
      const { status, headers } = await client.get('/primes/10');
      expect(status).toBe(200);
      return headers.connection;
    };
    expect(await ask()).toBe('keep-alive');
    app.kill('SIGTERM');
    while ((await ask()) !== 'close');
    expect(await app.exited).toBe(0);
  }, 30_000);
});
