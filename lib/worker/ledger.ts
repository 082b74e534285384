import { openSync, unlinkSync, writeSync } from 'node:fs';

/**
 * Each call is noted in a file before it begins. The note outlives this process however it ends, and tells the parent
 * whether the call it handed over is safe to run elsewhere. A message would say the same at half the cost of a call.
 */
export function openLedger(file: string): (call: number) => void {
  if (file === '') return () => {};
  const fd = openSync(file, 'r+');
  unlinkSync(file); // Both sides have it open: nobody else needs its name.
  const note = new Float64Array(1);
  return (call) => {
    note[0] = call;
    writeSync(fd, note, 0, 8, 0);
  };
}
