import fs, { existsSync } from 'node:fs';
import { createLedger } from '../lib/pool/ledger';
import { openLedger } from '../lib/worker/ledger';

afterEach(() => jest.restoreAllMocks());

describe('the ledger of a worker', () => {
  it('tells which call has begun, and leaves no file', () => {
    const ledger = createLedger();
    const begin = openLedger(ledger.file);
    expect(existsSync(ledger.file)).toBe(false);
    expect(ledger.begun(7)).toBe(false);
    begin(7);
    expect([ledger.begun(7), ledger.begun(8)]).toEqual([true, false]);
    ledger.close();
  });

  it('takes every call for begun, and hinders none, where there is no room to write', () => {
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
    openLedger(ledger.file)(7);
    expect(ledger.begun(7)).toBe(true);
    expect(made).not.toBe('');
    expect(existsSync(made)).toBe(false);
    ledger.close();
  });
});
