import { isMainThread } from 'node:worker_threads';
import { checkOptions, parseFunction, parseTime, type Time } from '../options';
import { isWorker } from '../worker';
import { PLACE, type Questions } from './cells';
import type { MainThread } from './main-thread';
import { lastLine, Reporter } from './report';

export type { Time } from '../options';
export type { Blocked } from './report';

export interface WatchOptions {
  /** How long JavaScript may hold the event loop before it is told of. At least 10 ms. @default '100ms' */
  readonly threshold?: Time | undefined;
  /**
   * Ends a process whose event loop has been blocked for so long, with exit code 70 and a last line on stderr that says
   * where it hangs, so that its supervisor starts another. @default never
   */
  readonly exitAfter?: Time | undefined;
  /** Gets each line, without a line break at its end. @default writes it to stderr */
  readonly log?: ((line: string) => void) | undefined;
}

export interface Watch {
  /** Ends the watch, whichever call of `watch()` began it. */
  stop(): void;
}

/** The process's one watch. Another copy of this package finds it, too. */
interface Running extends Watch {
  set(settings: Settings): void;
}

interface Settings {
  readonly threshold: number;
  readonly exitAfter: number;
  readonly log: (line: string) => void;
}

const place = globalThis as unknown as { [key: symbol]: Running | undefined };
const KEY = Symbol.for(PLACE);

/** `node --test` and `node --watch` run the app in another process. This one has no inspector, and crashes if it is used. */
const SUPERVISES = process.execArgv.some((flag) => /^--(test|watch)(=|$)/.test(flag));

/**
 * Tells of whatever blocks the event loop: the route, the time, the function and its line, and the way out. A process
 * has one watch; a second call replaces the options of the first. It does nothing in worker threads and in the worker
 * processes of this package.
 *
 * @throws TypeError `ERR_UNBLOCK_BAD_OPTION`
 */
export function watch(options: WatchOptions = {}): Watch {
  const settings = parse(options);
  if (!isMainThread || isWorker || SUPERVISES) return { stop() {} };
  const running = place[KEY] ?? start(settings.log);
  running.set(settings);
  return { stop: () => running.stop() };
}

function parse(options: WatchOptions): Settings {
  checkOptions('watch', options, ['threshold', 'exitAfter', 'log']);
  const { threshold = 100, exitAfter, log = toStderr } = options;
  return {
    threshold: parseTime('watch', 'threshold', threshold, 10),
    exitAfter: exitAfter === undefined ? 0 : parseTime('watch', 'exitAfter', exitAfter),
    log: parseFunction('watch', 'log', log),
  };
}

function toStderr(line: string): void {
  process.stderr.write(`${line}\n`);
}

function start(log: (line: string) => void): Running {
  let thread: MainThread | undefined;
  let reporter = new Reporter(log, 0);

  const giveUp = (error: Error) => {
    running.stop();
    // A second call of `watch()` finds this one: it would fail as well, and say so again.
    place[KEY] = running;
    log(`express-unblock: watch() is off: ${error.message}`);
  };
  const running: Running & Partial<Questions> = {
    set(settings) {
      ({ log } = settings);
      reporter.stop();
      reporter = new Reporter(log, settings.threshold);
      thread?.set(settings.threshold, settings.exitAfter);
    },
    stop() {
      thread?.stop();
      reporter.stop();
      delete place[KEY];
    },
  };
  try {
    checkPermissions();
    // Loaded only when needed: it cannot be loaded where Node has no inspector.
    const { MainThread } = require('./main-thread') as typeof import('./main-thread');
    thread = new MainThread({ onBlock: (block) => reporter.onBlock(block), lastLine, onError: giveUp });
    Object.assign(running, thread.questions);
    Object.defineProperty(globalThis, KEY, { value: running, configurable: true, writable: true });
  } catch (error) {
    giveUp(error as Error);
  }
  return running;
}

/** Asked for beforehand: a thread that may not use the inspector brings the process down when it does. */
function checkPermissions(): void {
  const { permission } = process as { permission?: { has(scope: string): boolean } };
  if (permission === undefined || (permission.has('worker') && permission.has('inspector'))) return;
  throw new Error(
    process.allowedNodeEnvironmentFlags.has('--allow-inspector')
      ? "it needs --allow-worker and --allow-inspector under Node's permission model"
      : 'this version of Node allows no inspector under its permission model',
  );
}
