import { openLedger } from './cells';
import { startKeeper } from './interruptible';
import { leaveSignalsToParent } from './signals';

/** What a worker process runs. Its last arguments are its parent's process id and its ledger. */
const [parent, file] = process.argv.slice(-2) as [string, string];
const ledger = openLedger(file);
leaveSignalsToParent();
// Its thread takes as long as all the rest: it comes up meanwhile.
startKeeper(Number(parent), ledger.fd);
const { takeCalls } = require('./calls') as typeof import('./calls');
takeCalls(ledger);
