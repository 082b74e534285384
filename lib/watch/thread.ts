import { writeSync } from 'node:fs';
import { type Runtime, Session } from 'node:inspector';
import { setTimeout as delay } from 'node:timers/promises';
import { workerData } from 'node:worker_threads';
import { CELLS, clockOffset, PLACE, type SampleAnswer, type WatchData } from './cells';

/**
 * The thread that looks whether the event loop still turns. It sleeps until the next beat is overdue. Only then does it
 * connect to the main thread, without a debugger or a profiler: V8 runs what it asks on top of whatever blocks.
 */
const { cells, clockOffset: mainOffset } = workerData as WatchData;
const offset = mainOffset - clockOffset();

/** How often it looks whether the block is over. */
const POLL_MS = 5;
const LONGEST_PAUSE_MS = 1000;
const LONGEST_STEP_MS = 500;
/** How long a process that is to end has for answering. */
const LAST_WORDS_MS = 1000;

const get = (cell: number) => Atomics.load(cells, cell);
const now = () => performance.now() + offset;
/** How long ago the event loop turned; wraps around as the cell does. */
const sinceBeat = () => ((now() | 0) - get(CELLS.beat)) | 0;

/** Two samples have to agree, so the first is taken before a block is long enough to be told of. */
const firstSampleAfter = () => get(CELLS.period) + get(CELLS.threshold) / 2;

async function watchForever(): Promise<never> {
  // Where there is no inspector, or a policy forbids it, this throws, and not the first block.
  connect().close();
  for (;;) {
    const period = get(CELLS.period);
    const wait = period === 0 ? Number.POSITIVE_INFINITY : firstSampleAfter() - sinceBeat();
    if (wait > 0) Atomics.wait(cells, CELLS.period, period, Math.ceil(wait));
    else await look();
  }
}

/** Samples the main thread until its event loop turns again. */
async function look(): Promise<void> {
  const block = follow(get(CELLS.beat));
  let pause = get(CELLS.threshold) / 4;
  for (let before: SampleAnswer | undefined; !block.isOver(); pause = longerPause(pause)) {
    const answer = await sample(pause, block.over);
    if (answer?.debuggable && before !== undefined && answer.cpuMs - before.cpuMs < pause / 20) block.restart();
    before = answer;
    await Promise.race([delay(pause), block.over]);
  }
}

function longerPause(pause: number): number {
  return Math.min(pause * 1.25, LONGEST_PAUSE_MS, get(CELLS.exitAfter) / 4 || LONGEST_PAUSE_MS);
}

interface OpenBlock {
  readonly over: Promise<void>;
  isOver(): boolean;
  /** A debugger stands at a breakpoint: that is no block. */
  restart(): void;
}

/** Waits for the end of a block, or of the process if the block has lasted for too long. */
function follow(beat: number): OpenBlock {
  const isOver = () => get(CELLS.beat) !== beat || get(CELLS.ending) === 1;
  let seenAt = performance.now();
  // While the whole process is stopped, this thread sees nothing: that time does not count.
  let blockedMs = Math.min(sinceBeat(), 2 * firstSampleAfter());
  const over = new Promise<void>((resolve) => {
    const timer = setInterval(() => {
      const seenBefore = seenAt;
      seenAt = performance.now();
      blockedMs += Math.min(seenAt - seenBefore, LONGEST_STEP_MS);
      const exitAfter = get(CELLS.exitAfter);
      const end = isOver()
        ? resolve
        : exitAfter > 0 && blockedMs >= exitAfter
          ? () => endProcess(blockedMs)
          : undefined;
      if (end === undefined) return;
      clearInterval(timer);
      void end();
    }, POLL_MS);
  });
  const restart = () => {
    blockedMs = 0;
  };
  return { over, isOver, restart };
}

async function sample(pause: number, over: Promise<void>): Promise<SampleAnswer | undefined> {
  const question = ask(`sample(${Math.round(pause)}, ${now()})`);
  try {
    return (await Promise.race([question.answer, over])) as SampleAnswer | undefined;
  } finally {
    question.close();
  }
}

/** Tells where the main thread hangs, and ends the process with exit code 70 (`EX_SOFTWARE`). */
async function endProcess(blockedMs: number): Promise<never> {
  const timedOut = delay(LAST_WORDS_MS);
  const naming = ask(`lastLine(${Math.round(blockedMs)})`);
  const line = await Promise.race([naming.answer, timedOut]);
  naming.close();
  await write(
    `${line ?? `express-unblock: something has blocked the event loop for ${Math.round(blockedMs)} ms in native code`}; exiting\n`,
  );
  ask('exit()');
  await timedOut;
  // Native code answers nothing.
  process.kill(process.pid, 'SIGKILL');
  return new Promise(() => {});
}

/** Returns once the operating system has all of it. */
async function write(text: string): Promise<void> {
  const bytes = Buffer.from(text);
  for (let written = 0, tries = 0; written < bytes.length && tries < 100; tries++) {
    try {
      written += writeSync(2, bytes, written);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EAGAIN') return;
      await delay(10); // A pipe that is full for the moment.
    }
  }
}

/** Has the main thread evaluate one call of its side of the watch. */
function ask(call: string): { answer: Promise<unknown>; close(): void } {
  const { session, close } = connect();
  const expression = `globalThis[Symbol.for('${PLACE}')]?.${call}`;
  const answer = new Promise((resolve) => {
    session.post(
      'Runtime.evaluate',
      { expression, silent: true, returnByValue: true },
      // Without an answer if it was closed before, or where no stack was left to run it on.
      (error: Error | null, evaluated?: Runtime.EvaluateReturnType) =>
        resolve(error === null && evaluated?.exceptionDetails === undefined ? evaluated?.result.value : undefined),
    );
  });
  return { answer, close };
}

/** For one question only: at its end, a process waits for sessions that are open, and says so on stderr. */
function connect(): { session: Session; close(): void } {
  const session = new Session();
  Atomics.store(cells, CELLS.session, 1);
  // The main thread does the same in the other order: one of the two sees the other.
  if (get(CELLS.ending) === 0) session.connectToMainThread();
  const close = () => {
    session.disconnect();
    Atomics.store(cells, CELLS.session, 0);
    Atomics.notify(cells, CELLS.session);
  };
  return { session, close };
}

void watchForever();
