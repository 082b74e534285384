import { randomUUID } from 'node:crypto';
import { closeSync, openSync, readSync, unlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';

/** Where a worker notes which call it has begun; see the worker's side. */
export interface Ledger {
  /** Empty where there is nowhere to write. */
  readonly file: string;
  /** The worker has it open: nobody else needs its name. */
  unlink(): void;
  /** Whether the call has begun, as far as anybody can tell; for all that is known it has, if nothing is. */
  begun(call: number): boolean;
  close(): void;
}

export function createLedger(): Ledger {
  const file = path.join(tmpdir(), `express-unblock-${randomUUID()}`);
  let fd: number;
  try {
    fd = openSync(file, 'wx+', 0o600);
  } catch {
    return { file: '', unlink() {}, begun: () => true, close() {} };
  }
  let linked = true;
  const ledger: Ledger = {
    file,
    unlink() {
      if (linked) unlinkSync(file);
      linked = false;
    },
    begun(call) {
      const note = new Float64Array(1);
      readSync(fd, note, 0, 8, 0);
      return note[0] === call;
    },
    close() {
      ledger.unlink();
      closeSync(fd);
    },
  };
  return ledger;
}
