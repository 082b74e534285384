import { isWorker, progress, signal } from 'express-unblock/worker';
import { triple } from './plain.cjs';

let calls = 0;
const settings = await Promise.resolve({ ready: true });

export const double = (n) => n * 2;
export const count = () => ++calls;
export const where = () => ({ isWorker, pid: process.pid, ...settings });
export const thrice = (n) => triple(n);
export const text = 'no function';
export default function byDefault() {
  return 'default';
}

export function report(to) {
  for (let n = 1; n <= to; n++) progress(n);
}

/** Ends by itself when told to, with what it has. */
export async function untilAborted() {
  progress('waiting');
  await new Promise((resolve) => signal.addEventListener('abort', resolve, { once: true }));
  progress('told');
  return { pid: process.pid, code: signal.reason?.code };
}

export function spin() {
  for (;;);
}
