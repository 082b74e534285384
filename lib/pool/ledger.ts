import { randomUUID } from 'node:crypto';
import { closeSync, openSync, readSync, rmSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';

/** Where a worker notes which call it has begun; see the worker's side. */
export interface Ledger {
  /** Empty where there is nowhere to write. */
  readonly file: string;
  /** Whether the call has begun, as far as anybody can tell; for all that is known it has, if nothing is. */
  begun(call: number): boolean;
  close(): void;
}

export function createLedger(): Ledger {
  const file = path.join(tmpdir(), `express-unblock-${randomUUID()}`);
  let fd: number | undefined;
  const close = () => {
    rmSync(file, { force: true }); // Where the worker did not get as far as that.
    if (fd !== undefined) closeSync(fd);
  };
  try {
    fd = openSync(file, 'wx+', 0o600);
    writeSync(fd, new Float64Array(1)); // Before a call depends on it: a full disk takes the file, and no byte in it.
  } catch {
    close();
    return { file: '', begun: () => true, close() {} };
  }
  return {
    file,
    begun(call) {
      const note = new Float64Array(1);
      readSync(fd as number, note, 0, 8, 0);
      return note[0] === call;
    },
    close,
  };
}
