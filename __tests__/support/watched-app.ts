import { spawn } from 'node:child_process';
import { once } from 'node:events';
import path from 'node:path';
import { createInterface } from 'node:readline';

/** An app in a process of its own, with all that it prints. */
export interface WatchedApp {
  readonly pid: number;
  readonly url: string;
  /** Resolves with a line on stdout or stderr that matches, each of them once; rejects when the app has ended without. */
  line(pattern: RegExp): Promise<string>;
  /** All lines so far, those of `line()` included. */
  readonly lines: readonly string[];
  /** Sends a request, and leaves it to itself. */
  request(path: string, init?: RequestInit): Promise<Response | undefined>;
  signal(signal: NodeJS.Signals): void;
  stop(): Promise<void>;
  readonly exited: Promise<{ code: number | null; signal: NodeJS.Signals | null }>;
}

const FIXTURES = path.join(__dirname, '..', 'watch-fixtures');
const running = new Set<WatchedApp>();

export const watchFixture = (name: string) => path.join(FIXTURES, name);

/** Starts a file that prints its address, as `http://localhost:` and its port, or that prints `started`. */
export async function startWatched(
  file: string,
  { flags = [], env = {} }: { flags?: string[]; env?: NodeJS.ProcessEnv } = {},
): Promise<WatchedApp> {
  const child = spawn(process.execPath, [...flags, path.resolve(FIXTURES, file)], {
    env: { ...process.env, ...env },
    cwd: FIXTURES,
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const exited = once(child, 'exit').then(([code, signal]) => ({ code, signal }));
  const lines: string[] = [];
  let wake = () => {};
  let open = 2;
  for (const stream of [child.stdout, child.stderr]) {
    createInterface(stream)
      .on('line', (line) => {
        lines.push(line);
        wake();
      })
      .on('close', () => {
        open--;
        wake();
      });
  }

  const taken = new Set<number>();
  async function line(pattern: RegExp): Promise<string> {
    for (;;) {
      const at = lines.findIndex((text, index) => !taken.has(index) && pattern.test(text));
      if (at >= 0) {
        taken.add(at);
        return lines[at] as string;
      }
      if (open === 0) throw new Error(`ended without ${pattern}:\n${lines.join('\n')}`);
      await new Promise<void>((resolve) => {
        wake = resolve;
      });
    }
  }

  const app: WatchedApp = {
    pid: child.pid as number,
    url: /http:\/\/localhost:\d+/.exec(await line(/http:|^started$/))?.[0] ?? '',
    line,
    lines,
    request: (path, init) => fetch(`${app.url}${path}`, init).catch(() => undefined),
    signal: (signal) => child.kill(signal),
    async stop() {
      running.delete(app);
      child.kill('SIGKILL');
      await exited;
    },
    exited,
  };
  running.add(app);
  return app;
}

/** For `afterEach`: leaves nothing running. */
export async function stopWatched(): Promise<void> {
  await Promise.all([...running].map((app) => app.stop()));
}
