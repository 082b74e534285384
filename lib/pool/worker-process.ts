import { type ChildProcess, fork } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { subscribe, unsubscribe } from 'node:diagnostics_channel';
import { closeSync, openSync, readSync, rmSync, writeSync } from 'node:fs';
import type { Socket } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import workerpool from 'workerpool';
import { background } from '../background';
import { type Death, notSerializable, startError, workerDied } from '../errors';
import { MOST_TASKS, NOTES, type Outcome, packThrown, unpackThrown, unwrap, type WorkerEvent } from '../wire';
import { SCRIPT } from '../worker/current-task';
import type { Call } from './call';
import { environmentOf } from './inherited';

/** How long a worker may take to come up. One that hangs in a preloaded module would keep its place for ever. */
const START_MS = 30_000;
/** From the abort to the kill, for a task that does not end by itself. */
const GRACE_MS = 100;
/** How often one call may be handed to a worker that dies before beginning it. */
const MOST_RETURNS = 2;
/** How long an idle worker may take over its exit handlers. */
const LEAVE_MS = 500;

export interface WorkerProcessOptions {
  readonly env: NodeJS.ProcessEnv | undefined;
  readonly execArgv: readonly string[];
}

export interface WorkerProcessEvents {
  onIdle(worker: WorkerProcess): void;
  /** It died before it began this call, which is safe to run elsewhere. */
  onReturned(call: Call): void;
  /** It takes no more calls, and will soon be gone. */
  onKilled(worker: WorkerProcess): void;
  onGone(worker: WorkerProcess, death: Death): void;
}

/**
 * One child process: a workerpool pool of exactly one worker, so that it is always known which child runs which call,
 * and a bad one is replaced whole.
 */
export class WorkerProcess {
  /** Until it has imported the modules of its pool, it is starting. */
  state: 'starting' | 'idle' | 'busy' | 'leaving' | 'gone' = 'starting';
  idleSince = 0;
  /** It was, or is being, ended to take it back from a call: another is started ahead of need. */
  reclaimed = false;
  /** True until its first idle moment. */
  neverReady = true;
  /** Set if it could not be forked or did not come up in time: another worker would fail the same way. */
  whyNotReady: Error | undefined;
  /** It ended while it imported a module. The next worker does not import that module ahead of calls. */
  endedByModule = false;
  readonly #pool: workerpool.Pool;
  readonly #child: ChildProcess;
  readonly #events: WorkerProcessEvents;
  /** The modules to import before the first call, and again after more of them were offloaded. */
  readonly #modules: Set<string>;
  readonly #imported = new Set<string>();
  #importing: readonly string[] = [];
  readonly #known = new Set<number>();
  #call: Call | undefined;
  #listens = false;
  readonly #ledger = createLedger();
  /** An interrupt was sent that may come late, when another call runs. */
  #interrupted = false;
  #timers: NodeJS.Timeout[] = [];

  constructor(options: WorkerProcessOptions, modules: Set<string>, events: WorkerProcessEvents) {
    this.#events = events;
    this.#modules = modules;
    const forked = background.runInAsyncScope(forkPool, undefined, options, this.#ledger, [...modules]);
    const { pool, child, imported } = forked;
    this.#pool = pool;
    this.#child = child;
    child.once('exit', (exitCode, signal) => this.#onExit({ exitCode, signal }));
    // A child that could not be forked has no exit to wait for.
    child.once('error', (error) => {
      if (child.pid !== undefined) return;
      this.whyNotReady = error;
      this.#onExit({ exitCode: null, signal: null });
    });
    child.unref();
    child.channel?.unref();
    void this.prepare(imported);
  }

  /** It runs a call that somebody waits for. */
  get isTaken(): boolean {
    return this.#call !== undefined && this.#call.ending === undefined;
  }

  get lacksModules(): boolean {
    return [...this.#modules].some((url) => !this.#imported.has(url));
  }

  /**
   * Comes up, or leaves the idle ones for a while, and imports the pool's modules before it takes calls.
   *
   * @param begun the import of the modules there are so far, which a new worker was told to begin with
   */
  async prepare(begun?: Promise<string[]>): Promise<void> {
    this.state = 'starting';
    const failed = new Set<string>();
    const missing = () => [...this.#modules].filter((url) => !this.#imported.has(url) && !failed.has(url));
    let imported = begun;
    // More may be offloaded meanwhile.
    do {
      const urls = missing();
      if (!(await this.#import(urls, imported))) return;
      imported = undefined;
      for (const url of urls) if (!this.#imported.has(url)) failed.add(url);
    } while (missing().length > 0);
    this.#becomeIdle();
  }

  run(call: Call): void {
    this.state = 'busy';
    this.#call = call;
    call.onGivenUp = () => {};
    const { definition } = call.task;
    if (definition.kind === 'module' && !this.#imported.has(definition.url)) void this.#importFor(call, definition.url);
    else this.#start(call);
  }

  /** The import goes on if the call is given up meanwhile, since the next call needs it, too. */
  async #importFor(call: Call, url: string): Promise<void> {
    if (!(await this.#import([url]))) return;
    if (call.ending === undefined) this.#start(call);
    else this.#becomeIdle();
  }

  /** @returns whether the worker has survived it; modules that cannot be imported fail their own calls */
  async #import(urls: readonly string[], begun?: Promise<string[]>): Promise<boolean> {
    this.#importing = urls;
    // If this process was busy, the answer may have come already; it is read before the immediate runs.
    background.runInAsyncScope(() => this.#after(START_MS, () => setImmediate(() => this.#giveUpStart(urls))));
    try {
      const imported: string[] = await (begun ?? this.#pool.exec('load', [urls]));
      for (const url of imported) this.#imported.add(url);
    } catch {
      this.kill(); // The reason is in the exit that follows.
    }
    this.#stopTimers();
    this.#importing = [];
    return this.state !== 'leaving' && this.state !== 'gone';
  }

  #giveUpStart(importing: readonly string[]): void {
    if (this.#importing !== importing) return;
    this.whyNotReady = startError(`It was not ready after ${START_MS} ms`);
    this.kill();
  }

  #start(call: Call): void {
    const { task, args } = call;
    this.#listens = false;
    call.startedAt = performance.now();
    call.pid = this.#child.pid;
    call.onGivenUp = () => this.#reclaim(call);
    const definition = this.#known.has(task.id) ? undefined : task.definition;
    if (definition !== undefined && this.#known.size === MOST_TASKS) this.#known.clear();
    this.#known.add(task.id);
    const careful = this.#interrupted;
    this.#interrupted = false;
    this.#pool
      .exec('run', [call.id, task.id, definition, args, task.reclaim, careful], {
        on: (event) => this.#onEvent(call, event),
      })
      .then(
        (outcome: Outcome) => this.#onOutcome(call, outcome),
        () => this.kill(),
      );
  }

  /** Kills it together with the processes that its tasks have started: it leads a process group. */
  kill(): void {
    if (this.state === 'gone') return;
    const { pid } = this.#child;
    try {
      if (pid !== undefined && process.platform !== 'win32') process.kill(-pid, 'SIGKILL');
    } catch {
      // The process group has ended already.
    }
    this.#child.kill('SIGKILL');
    if (this.state === 'leaving') return;
    this.state = 'leaving';
    this.reclaimed = this.#call?.ending !== undefined;
    this.#events.onKilled(this);
  }

  /** Lets an idle worker run its exit handlers. */
  leave(): void {
    this.state = 'leaving';
    if (this.#child.connected) this.#child.disconnect();
    this.#after(LEAVE_MS, () => this.kill());
  }

  #onEvent(call: Call, event: WorkerEvent): void {
    // Callbacks that an earlier call left behind may still report.
    if (this.#call !== call || event.call !== call.id) return;
    if ('listens' in event) {
      this.#listens = true;
      if (call.ending !== undefined) this.#tell(call);
    } else if (call.ending === undefined) call.onProgress?.(event.progress);
  }

  #onOutcome(call: Call, { ok, body, spoiled }: Outcome): void {
    if (this.state !== 'busy') return;
    this.#stopTimers();
    const isReclaimed = call.ending !== undefined;
    try {
      if (ok) call.succeed(unwrap(body));
      else call.fail('failed', unpackThrown(body));
    } catch (cause) {
      call.fail('failed', notSerializable('The result', call.task.definition.name, cause));
    }
    if (isReclaimed && (call.task.reclaim === 'kill' || spoiled)) this.kill();
    else this.#becomeIdle();
  }

  #becomeIdle(): void {
    this.#call = undefined;
    this.state = 'idle';
    this.neverReady = false;
    this.idleSince = performance.now();
    this.#events.onIdle(this);
  }

  /** Takes the worker back from a call that was given up. */
  #reclaim(call: Call): void {
    const interrupt = call.task.reclaim === 'interrupt' && process.platform !== 'win32';
    if (!interrupt && !this.#listens) {
      this.kill();
      return;
    }
    this.#killLater(call);
    if (this.#listens) this.#tell(call);
    if (interrupt) this.#interrupt(call);
  }

  /**
   * The grace passes in two halves, and what has come meanwhile is read before the kill: a crowded machine that lets
   * nobody run for a while takes one half at most.
   */
  #killLater(call: Call): void {
    const kill = () => {
      if (this.#call === call) this.kill();
    };
    this.#after(GRACE_MS / 2, () => this.#after(GRACE_MS / 2, () => setImmediate(kill)));
  }

  #tell(call: Call): void {
    if (!this.#child.connected) return;
    // A message of workerpool's, but past its queue: the worker reads it while the task awaits something.
    this.#child.send({ id: -1, method: 'abort', params: [call.id, packThrown(call.reason)] }, () => {});
  }

  /** The order tells the worker that the SIGINT is not a process manager's. The worker then repeats the signal itself. */
  #interrupt(call: Call): void {
    this.#interrupted = true;
    this.#ledger.order(call.id);
    this.#child.kill('SIGINT');
  }

  #after(delay: number, action: () => void): void {
    this.#timers.push(setTimeout(action, delay).unref());
  }

  #stopTimers(): void {
    for (const timer of this.#timers.splice(0)) clearTimeout(timer);
  }

  #onExit(death: Death): void {
    if (this.state === 'gone') return;
    const call = this.#call;
    this.state = 'gone';
    this.reclaimed ||= call?.ending !== undefined;
    this.#call = undefined;
    this.#stopTimers();
    // workerpool sees the death of an idle worker, and frees its debug port, only at the next call.
    if (call === undefined && !this.neverReady) this.#pool.exec('load', [[]]).catch(() => {});
    const note = this.#ledger.close();
    const importing = this.#importing[NOTES.indexOfImport(note) ?? -1];
    if (importing !== undefined) this.#forgetModule(importing);
    // A module that ends its process would do so again.
    const isOwnFault = note === undefined || note === call?.id || (importing !== undefined && death.signal === null);
    if (call !== undefined) this.#settleAfterDeath(call, death, isOwnFault);
    this.#events.onGone(this, death);
  }

  /** A module that ended its worker or took too long is not imported ahead of calls any more: no other call would run. */
  #forgetModule(url: string): void {
    this.#modules.delete(url);
    this.endedByModule = this.whyNotReady === undefined;
  }

  #settleAfterDeath(call: Call, death: Death, isOwnFault: boolean): void {
    if (isOwnFault || call.returns >= MOST_RETURNS) {
      call.fail('died', workerDied(call.task.definition.name, death));
    } else if (call.ending === undefined) {
      call.returns++;
      call.startedAt = undefined;
      this.#events.onReturned(call);
    }
  }
}

function forkPool({ env, execArgv }: WorkerProcessOptions, ledger: Ledger, modules: readonly string[]) {
  const pool = workerpool.pool(SCRIPT, {
    workerType: 'process',
    maxWorkers: 1,
    // How long workerpool waits for a process that has already exited.
    workerTerminateTimeout: 1,
    forkArgs: [String(process.pid), ledger.file],
    forkOpts: {
      execArgv: [...execArgv],
      serialization: 'advanced',
      // Ctrl-C in a terminal goes to the whole process group: tasks would be interrupted while the parent shuts down.
      detached: process.platform !== 'win32',
      env: environmentOf(env),
    },
  });
  let child: ChildProcess | undefined;
  const onFork = (message: unknown) => {
    child = (message as { process: ChildProcess }).process;
  };
  // workerpool appends the parent's memory and inspector flags, which would override the worker's own.
  const { execArgv: own } = process;
  process.execArgv = [];
  subscribe('child_process', onFork);
  try {
    // workerpool forks for its first call.
    const imported: Promise<string[]> = pool.exec('load', [modules]);
    return { pool, child: child as unknown as ChildProcess, imported };
  } catch (error) {
    ledger.close();
    throw error;
  } finally {
    unsubscribe('child_process', onFork);
    process.execArgv = own;
  }
}

/** More than a stack trace. */
const MOST_SAID = 4000;
const ASK_MS = 10_000;

/**
 * Finds out why a worker died before it was ready: starts another in the same way, and reads its standard error, which
 * workers share with the app. If this one comes up, it is ended.
 */
export async function whyNotReady(options: WorkerProcessOptions, { exitCode, signal }: Death): Promise<unknown> {
  if (signal !== null) return startError(`It was ended by ${signal} before it was ready`);
  try {
    return startError((await askOne(options)) || `It ended with exit code ${exitCode} before it was ready`);
  } catch (error) {
    return error;
  }
}

function askOne({ env, execArgv }: WorkerProcessOptions): Promise<string> {
  const child = fork(SCRIPT, [String(process.pid), ''], {
    execArgv: [...execArgv],
    env: environmentOf(env),
    stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
    timeout: ASK_MS,
    killSignal: 'SIGKILL',
  });
  const stderr = child.stderr as Socket;
  let said = '';
  stderr.on('data', (chunk) => {
    said = (said + chunk).slice(-MOST_SAID);
  });
  for (const handle of [child, child.channel, stderr]) handle?.unref();
  child.once('message', () => child.kill('SIGKILL'));
  return new Promise((resolve, reject) => {
    const tell = () => resolve(said.trim());
    child.once('error', reject);
    child.once('close', tell);
    child.once('exit', () => setTimeout(tell, GRACE_MS)); // Its own children may still hold its standard error.
  });
}

/** The worker's note and the parent's order; see `lib/worker/cells.ts`. */
export interface Ledger {
  /** The path; empty if there is nowhere to write. */
  readonly file: string;
  order(call: number): void;
  /** @returns the last note; `undefined` if it is not known */
  close(): number | undefined;
}

export function createLedger(): Ledger {
  const file = path.join(tmpdir(), `express-unblock-${randomUUID()}`);
  const value = new Float64Array(1);
  let fd: number | undefined;
  const close = () => {
    if (fd === undefined) return; // Under `--permission`, removing it may not be allowed either.
    rmSync(file, { force: true }); // The worker may not have done so yet.
    closeSync(fd);
  };
  try {
    fd = openSync(file, 'wx+', 0o600);
    writeSync(fd, new Float64Array(2)); // Shows a full disk now: it takes a new file, but no byte in it.
  } catch {
    close();
    return { file: '', order() {}, close: () => undefined };
  }
  const opened = fd;
  return {
    file,
    order(call) {
      value[0] = call;
      writeSync(opened, value, 0, 8, 8);
    },
    close() {
      readSync(opened, value, 0, 8, 0);
      close();
      return value[0];
    },
  };
}
