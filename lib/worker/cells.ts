import { openSync, readSync, unlinkSync, writeSync } from 'node:fs';

/** Where in the ledger the parent's order is; the note is at its beginning. */
const ORDER_AT = 8;

/** The numbers that a worker's main thread and its keeper share. */
export const CELLS = {
  /** Who enters a script or is in one: a task, the keeper, nobody. */
  gate: 0,
  /** Which entry of the main thread is under way, from within its script; 0 while there is none. */
  entry: 1,
  /** The call that entered. */
  call: 2,
  /** The entry that the keeper guards from all signals but the parent's. */
  guarded: 3,
  /** The call that the keeper interrupts. */
  interrupted: 4,
  /** How many scripts the keeper is in while no task runs; 0 while its thread comes up. */
  inside: 5,
} as const;

export const GATE = { free: 0, task: 1, keeper: 2 } as const;

/**
 * Shared with the parent: the call that this worker has begun last, and the call that it is to interrupt. A file
 * outlives this process however it ends, and is read by whoever wants to know; a message would be neither.
 */
export interface Ledger {
  /** `undefined` where the parent has nowhere to write: nothing is noted then, and no order can be read. */
  readonly fd: number | undefined;
  note(call: number): void;
}

export function openLedger(file: string): Ledger {
  if (file === '') return { fd: undefined, note: () => {} };
  const fd = openSync(file, 'r+');
  unlinkSync(file); // Both sides have it open: nobody else needs its name.
  const value = new Float64Array(1);
  return {
    fd,
    note(call) {
      value[0] = call;
      writeSync(fd, value, 0, 8, 0);
    },
  };
}

/** The call that the parent has ordered to be interrupted, as a number of the cells. */
export function orderIn(fd: number): number {
  const value = new Float64Array(1);
  readSync(fd, value, 0, 8, ORDER_AT);
  return cellNumber(value[0] as number);
}

/** Cells hold 32 bits; the calls of a month may be more. */
export function cellNumber(call: number): number {
  return call === 0 ? 0 : 1 + (call % 0x7fff_ffff);
}
