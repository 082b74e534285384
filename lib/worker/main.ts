import { takeCalls } from './calls';
import { openLedger } from './cells';
import { startKeeper } from './interruptible';
import { leaveSignalsToParent } from './signals';

/** What a worker process runs. Its last arguments are its parent's process id and its ledger. */
const [parent, file] = process.argv.slice(-2) as [string, string];
leaveSignalsToParent();
const ledger = openLedger(file);
takeCalls(ledger, () => startKeeper(Number(parent), ledger.fd));
