import { AsyncResource } from 'node:async_hooks';
import type { ChildProcess } from 'node:child_process';
import { subscribe, unsubscribe } from 'node:diagnostics_channel';
import path from 'node:path';
import workerpool from 'workerpool';
import { type Death, notSerializable, workerDied } from '../errors';
import { MOST_TASKS, type Outcome, packThrown, unpackThrown, unwrap, type WorkerEvent } from '../wire';
import type { Call } from './call';
import { environmentOf } from './inherited';
import { createLedger, type Ledger } from './ledger';

/** How long a worker may take to come up: one that hangs in what it preloads would hold its place for ever. */
const START_MS = 30_000;
/** From the abort to the kill, for a task that does not end by itself. */
const GRACE_MS = 100;
/** A signal is lost when it comes just before the task is entered, and now and then V8 overlooks one. */
const REPEAT_MS = [4, 12, 28, 60];
/** How often one call may be handed to a worker that dies before beginning it. */
const MOST_MISFIRES = 2;
/** How long an idle worker may take over its exit handlers. */
const LEAVE_MS = 500;

const SCRIPT = path.join(__dirname, '..', 'worker', 'main.js');

/** What lasts belongs to no request: without this, it would keep the async context of the call that first needed it. */
export const nobody = new AsyncResource('express-unblock');

export interface WorkerProcessOptions {
  readonly env: NodeJS.ProcessEnv | undefined;
  readonly execArgv: readonly string[];
}

export interface WorkerProcessEvents {
  onIdle(worker: WorkerProcess): void;
  /** It died before it began this call, which is safe to run elsewhere. */
  onReturned(call: Call): void;
  onGone(worker: WorkerProcess, death: Death): void;
}

/**
 * One child process: a workerpool pool of exactly one worker, so that it is always known which child runs which call,
 * and a bad one is replaced whole.
 */
export class WorkerProcess {
  state: 'starting' | 'idle' | 'busy' | 'gone' = 'starting';
  /** It died while being taken back from a call: another is to be started ahead of need. */
  reclaimed = false;
  idleSince = 0;
  /** True until its first idle moment. */
  neverReady = true;
  /** It was killed because it did not come up in time: another would do the same. */
  stuck = false;
  readonly #pool: workerpool.Pool;
  readonly #child: ChildProcess;
  readonly #events: WorkerProcessEvents;
  readonly #known = new Set<number>();
  #call: Call | undefined;
  #listens = false;
  readonly #ledger = createLedger();
  /** Signals sent to this process in its life; as many must have landed before another call may enter. */
  #interrupts = 0;
  #timers: NodeJS.Timeout[] = [];

  constructor(options: WorkerProcessOptions, events: WorkerProcessEvents) {
    this.#events = events;
    const { pool, child, ready } = nobody.runInAsyncScope(fork, undefined, options, this.#ledger);
    this.#pool = pool;
    this.#child = child;
    child.once('exit', (exitCode, signal) => this.#onExit({ exitCode, signal }));
    // A child that could not be forked has no exit to wait for.
    child.once('error', () => child.pid === undefined && this.#onExit({ exitCode: null, signal: null }));
    child.unref();
    child.channel?.unref();
    // While this process was busy, the worker may have come up: that is heard of before the immediate.
    nobody.runInAsyncScope(() => this.#after(START_MS, () => setImmediate(() => this.#giveUpStart())));
    ready.then(
      () => {
        this.#stopTimers();
        this.#becomeIdle();
      },
      () => this.kill(),
    );
  }

  /** It runs a call that somebody waits for. */
  get isTaken(): boolean {
    return this.#call !== undefined && this.#call.ending === undefined;
  }

  run(call: Call): void {
    const { task, args } = call;
    this.state = 'busy';
    this.#call = call;
    this.#listens = false;
    call.startedAt = performance.now();
    call.pid = this.#child.pid;
    call.onGivenUp = () => this.#reclaim(call);
    const definition = this.#known.has(task.id) ? undefined : task.definition;
    if (definition !== undefined && this.#known.size === MOST_TASKS) this.#known.clear();
    this.#known.add(task.id);
    this.#pool
      .exec('run', [call.id, task.id, definition, args, this.#interrupts], {
        on: (event) => this.#onEvent(call, event),
      })
      // What made the connection fail, the exit says.
      .then(
        (outcome: Outcome) => this.#onOutcome(call, outcome),
        () => this.kill(),
      );
  }

  /** With all the processes that its tasks have started: it leads a group of its own. */
  kill(): void {
    if (this.state === 'gone') return;
    const { pid } = this.#child;
    try {
      if (pid !== undefined && process.platform !== 'win32') process.kill(-pid, 'SIGKILL');
    } catch {
      // Of what has ended already, nothing is left to be killed.
    }
    this.#child.kill('SIGKILL');
  }

  /** Lets an idle worker run its exit handlers. */
  leave(): void {
    if (this.#child.connected) this.#child.disconnect();
    this.#after(LEAVE_MS, () => this.kill());
  }

  #giveUpStart(): void {
    if (this.state !== 'starting') return;
    this.stuck = true;
    this.kill();
  }

  #onEvent(call: Call, event: WorkerEvent): void {
    // What an earlier call left behind may still tell of itself.
    if (this.#call !== call || event.call !== call.id) return;
    if ('listens' in event) {
      this.#listens = true;
      if (call.ending !== undefined) this.#tell(call);
    } else if (call.ending === undefined) call.onProgress?.(event.progress);
  }

  #onOutcome(call: Call, { ok, body, interrupts, notBegun, spoiled }: Outcome): void {
    if (this.state === 'gone') return;
    if (call.ending === undefined) {
      this.#interrupts = interrupts; // Some may have come from elsewhere.
      if (notBegun) {
        this.run(call);
        return;
      }
      try {
        if (ok) call.succeed(unwrap(body));
        else call.fail('failed', unpackThrown(body));
      } catch (cause) {
        call.fail('failed', notSerializable('The result', call.task.definition.name, cause));
      }
      this.#becomeIdle();
      return;
    }
    this.#stopTimers();
    if (call.task.reclaim === 'kill' || spoiled) this.kill();
    else if (interrupts === this.#interrupts) this.#becomeIdle();
    else this.#awaitInterrupts();
  }

  /** A signal still on its way would hit the next call. */
  #awaitInterrupts(): void {
    this.#after(GRACE_MS, () => this.kill());
    this.#pool.exec('settled', [this.#interrupts]).then(
      (landed: number | undefined) => {
        this.#stopTimers();
        if (landed === undefined) return this.kill();
        this.#interrupts = landed;
        this.#becomeIdle();
      },
      () => this.kill(),
    );
  }

  #becomeIdle(): void {
    if (this.state === 'gone') return;
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
    this.#after(GRACE_MS, () => this.kill());
    if (this.#listens) this.#tell(call);
    if (interrupt) this.#interrupt();
  }

  #tell(call: Call): void {
    if (!this.#child.connected) return;
    // In workerpool's own terms, past its queue: the worker is busy, and hears this between two of its steps.
    this.#child.send({ id: -1, method: 'abort', params: [call.id, packThrown(call.reason)] }, () => {});
  }

  #interrupt(): void {
    const signal = () => {
      this.#interrupts++;
      this.#child.kill('SIGINT');
    };
    signal();
    for (const delay of REPEAT_MS) this.#after(delay, signal);
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
    this.reclaimed = call?.ending !== undefined;
    this.#call = undefined;
    this.#stopTimers();
    // workerpool notices an idle worker's death, and gives its debug port back, only when asked to run something.
    if (call === undefined && !this.neverReady) this.#pool.exec('ready').catch(() => {});
    if (call !== undefined) this.#settleAfterDeath(call, death);
    this.#ledger.close();
    this.#events.onGone(this, death);
  }

  #settleAfterDeath(call: Call, death: Death): void {
    if (this.#ledger.begun(call.id) || call.misfires >= MOST_MISFIRES) {
      call.fail('died', workerDied(call.task.definition.name, death));
    } else if (call.ending === undefined) {
      call.misfires++;
      call.startedAt = undefined;
      this.#events.onReturned(call);
    }
  }
}

function fork({ env, execArgv }: WorkerProcessOptions, ledger: Ledger) {
  const pool = workerpool.pool(SCRIPT, {
    workerType: 'process',
    maxWorkers: 1,
    // How long workerpool waits for what has already exited.
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
  // workerpool appends the parent's memory and inspector flags, which would beat the worker's own.
  const { execArgv: own } = process;
  process.execArgv = [];
  subscribe('child_process', onFork);
  try {
    const ready = pool.exec('ready');
    return { pool, child: child as unknown as ChildProcess, ready };
  } catch (error) {
    ledger.close();
    throw error;
  } finally {
    unsubscribe('child_process', onFork);
    process.execArgv = own;
  }
}
