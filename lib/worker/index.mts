import { currentTask } from './current-task.js';
import * as worker from './index.js';

export const { isWorker, progress } = worker;

// A binding of CommonJS is copied once; this one follows the running task.
export let signal: AbortSignal = worker.signal;
currentTask()?.follow((current) => {
  signal = current;
});
