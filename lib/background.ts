import { AsyncResource } from 'node:async_hooks';

/**
 * Workers, timers and connections outlive the request that first needed them. Created in this async context, they do
 * not keep that one's `req` and `res` alive. It ends at once for those who count: Jest's `--detectOpenHandles` takes an
 * `AsyncResource` for a handle until then.
 */
export const background = new AsyncResource('express-unblock', { requireManualDestroy: true }).emitDestroy();
