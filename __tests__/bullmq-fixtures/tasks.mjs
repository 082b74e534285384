import { appendFileSync, existsSync } from 'node:fs';
import { progress, signal } from 'express-unblock/worker';

export const echo = (value) => value;
export const pid = () => process.pid;
export const zeros = (length) => Buffer.alloc(length);

export function spin(ms) {
  for (const end = performance.now() + ms; performance.now() < end; );
  return ms;
}

/** Tells that it has begun. */
export function hold(ms) {
  progress('begun');
  return spin(ms);
}

export function forever() {
  for (;;);
}

export function steps(count) {
  for (let step = 1; step <= count; step++) progress({ step });
  return count;
}

export async function slowSteps(count, ms) {
  for (let step = 1; step <= count; step++) {
    progress({ step });
    await new Promise((resolve) => setTimeout(resolve, ms));
  }
}

export const big = (length) => progress('x'.repeat(length));

export class QuotaError extends Error {
  status = 429;
  code = 'E_QUOTA';
  left = new Map([['a', 1n]]);
}

export function fail() {
  throw new QuotaError('No more');
}

export const die = () => process.kill(process.pid, 'SIGKILL');

/** Leaves a line when it begins, and one when it ends. */
export function mark(file, name, ms) {
  appendFileSync(file, `${name} begin\n`);
  spin(ms);
  appendFileSync(file, `${name} end\n`);
  return name;
}

/** Takes long the first time only. */
export function slowAtFirst(file, name) {
  const isFirst = !existsSync(file);
  return mark(file, name, isFirst ? 60_000 : 0);
}

/** Leaves the time in a file for as long as it runs. */
export function burn(file, ms) {
  let told = 0;
  for (const end = performance.now() + ms; performance.now() < end; ) {
    if (Date.now() - told < 10) continue;
    told = Date.now();
    appendFileSync(file, `${told}\n`);
  }
}

/** Why it was given up, as the task hears it. */
export async function untilAborted(file) {
  await new Promise((resolve) => signal.addEventListener('abort', resolve, { once: true }));
  appendFileSync(file, `${signal.reason?.code ?? signal.reason}\n`);
}
