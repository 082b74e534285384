import { isWorker, progress, signal } from 'express-unblock/worker';

let heard;

export function untilAborted() {
  return new Promise((resolve) => {
    signal.addEventListener('abort', () => {
      heard = signal.reason.message;
      resolve();
    });
    progress('listening');
  });
}

export function state() {
  return { isWorker, heard, aborted: signal.aborted, pid: process.pid };
}
