import type { Request, RequestHandler, Response } from 'express';
import { asError } from '../errors';
import { contexts } from './context';
import { deadlineOf, existingDeadline } from './deadline';

/** An Express handler that sends what `run` resolves with, and hands what it rejects with to `next`. */
export function handlerOf(run: (req: Request<any>) => Promise<unknown>): RequestHandler<any> {
  return async function offloadHandler(req, res, next) {
    // Without a timeout() before it, the request has no limit, but its client may leave.
    try {
      const deadline = deadlineOf(req, res);
      const current = contexts.getStore();
      const context = current?.deadline === deadline ? current : deadline.handlers;
      send(res, await contexts.run(context, run, req));
    } catch (error) {
      const failed = existingDeadline(req);
      // The error handlers have got it already.
      if (failed?.failure === undefined || error !== failed.reason) next(asError(error));
    }
  };
}

function send(res: Response, result: unknown): void {
  const typed = res.getHeader('Content-Type') !== undefined;
  if (result === undefined) res.status(204).end();
  else if (typeof result === 'string') (typed ? res : res.type('text/plain')).send(result);
  else if (result instanceof Uint8Array) {
    const { buffer, byteOffset, byteLength } = result;
    (typed ? res : res.type('application/octet-stream')).send(Buffer.from(buffer, byteOffset, byteLength));
  } else res.json(result);
}
