import { appendFileSync } from 'node:fs';
import { progress } from 'express-unblock/worker';

function spin(ms) {
  for (const end = performance.now() + ms; performance.now() < end; );
}

const note = (trace, number, what) => appendFileSync(trace, `${number} ${what} ${Date.now()} ${process.pid}\n`);

/** Leaves a line when it begins, and one when it ends. */
export function mark(trace, number, ms) {
  note(trace, number, 'begin');
  spin(ms);
  note(trace, number, 'end');
  return `done ${number}`;
}

/** The same, and may be run once more where its machine died. */
export const again = mark;

export function endless(trace, number) {
  note(trace, number, 'begin');
  for (;;) {
    spin(50);
    note(trace, number, 'on');
  }
}

export function fail(trace, number) {
  note(trace, number, 'begin');
  note(trace, number, 'end');
  throw Object.assign(new Error(`failed ${number}`), { code: 'E_FAILED' });
}

export function steps(trace, number) {
  note(trace, number, 'begin');
  for (let step = 1; step <= 200; step++) progress(step);
  note(trace, number, 'end');
  return `done ${number}`;
}

export function bulk(trace, number, bytes) {
  note(trace, number, 'begin');
  note(trace, number, 'end');
  return bytes.map((byte) => byte ^ 1);
}

export function deadly(trace, number) {
  note(trace, number, 'begin');
  process.kill(process.pid, 'SIGKILL');
}
