import fs, { existsSync } from 'node:fs';
import { createLedger } from '../lib/pool/worker-process';
import { cellNumber, openLedger, orderIn } from '../lib/worker/cells';

jest.setTimeout(30_000);

afterEach(() => jest.restoreAllMocks());

describe('the ledger of a worker', () => {
  it('tells which call has begun, and which is to be interrupted, and leaves no file', () => {
    const ledger = createLedger();
    const { fd, note } = openLedger(ledger.file);
    expect(existsSync(ledger.file)).toBe(false);
    note(7);
    expect(orderIn(fd as number)).toBe(cellNumber(0));
    ledger.order(8);
    expect(orderIn(fd as number)).toBe(cellNumber(8));
    expect(ledger.close()).toBe(7);
  });

  it('knows nothing, and hinders no call, where there is no room to write', () => {
    let made = '';
    const { openSync } = fs;
    jest.spyOn(fs, 'openSync').mockImplementation((file, ...rest) => {
      made = String(file);
      return openSync(file, ...rest);
    });
    jest.spyOn(fs, 'writeSync').mockImplementation(() => {
      throw Object.assign(new Error('no space left on device'), { code: 'ENOSPC' });
    });
    const ledger = createLedger();
    openLedger(ledger.file).note(7);
    expect(made).not.toBe('');
    expect(existsSync(made)).toBe(false);
    expect(ledger.close()).toBeUndefined();
  });

  it('tells calls apart after more of them than 32 bits can count', () => {
    expect(new Set([2 ** 31 - 2, 2 ** 31 - 1, 2 ** 31, 2 ** 31 + 1, 2 ** 40].map(cellNumber)).size).toBe(5);
    for (const call of [1, 2 ** 31, 2 ** 40]) expect(cellNumber(call)).toBeGreaterThan(0);
  });
});
