import { currentTask } from './current-task';

/** True in a worker process. A file that serves both sides uses it to call `app.listen()` on one of them only. */
export const isWorker: boolean = currentTask() !== undefined;

/**
 * Aborts when the running task's caller gave it up: the deadline passed, the client left, the caller's own signal
 * aborted. A task that listens has 100 ms to end by itself. In CommonJS read it as a property of the module, since
 * each task has a signal of its own. Outside of a worker it never aborts.
 */
export let signal: AbortSignal = new AbortController().signal;

currentTask()?.follow((current) => {
  signal = current;
});

/**
 * Reports progress to the call's `onProgress` listener. Anything that can be cloned may be sent. Outside of a worker
 * it does nothing.
 */
export function progress(value: unknown): void {
  currentTask()?.progress(value);
}
