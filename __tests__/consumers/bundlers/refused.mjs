/**
 * Starts an app with the whole of express-unblock in its bundle, and makes sure that it is told what to do instead:
 *
 *     node refused.mjs <app.js>
 */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';

const { status, stderr } = spawnSync(process.execPath, [process.argv[2]], { encoding: 'utf8', timeout: 20_000 });
assert.match(stderr, /express-unblock: .* keep it out of the bundle/);
assert.equal(status, 1);
