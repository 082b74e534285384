import { openSync, readSync, unlinkSync, writeSync } from 'node:fs';

/** The offset of the parent's order in the ledger. The note is at offset 0. */
const ORDER_AT = 8;

/** The numbers that a worker's main thread and its keeper share. */
export const CELLS = {
  /** Who may enter a script now: `GATE`. */
  gate: 0,
  /** The number of the main thread's entry that is under way, set from within its script; 0 while there is none. */
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
 * Shared with the parent: the call that this worker began last, and the call that it is to interrupt. It is a file,
 * since a file can be read after the worker has died, and while its main thread is busy.
 */
export interface Ledger {
  /** `undefined` if the parent has nowhere to write; then nothing is noted, and no order can be read. */
  readonly fd: number | undefined;
  note(call: number): void;
}

export function openLedger(file: string): Ledger {
  if (file === '') return { fd: undefined, note: () => {} };
  const fd = openSync(file, 'r+');
  unlinkSync(file); // Both sides have it open; its name is not needed any more.
  const value = new Float64Array(1);
  return {
    fd,
    note(call) {
      value[0] = call;
      writeSync(fd, value, 0, 8, 0);
    },
  };
}

/** The call that the parent wants interrupted, as a cell number. */
export function orderIn(fd: number): number {
  const value = new Float64Array(1);
  readSync(fd, value, 0, 8, ORDER_AT);
  return cellNumber(value[0] as number);
}

/** Cells hold 32 bits, and a worker may run more calls than that. */
export function cellNumber(call: number): number {
  return call === 0 ? 0 : 1 + (call % 0x7fff_ffff);
}
