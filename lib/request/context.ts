import { AsyncLocalStorage } from 'node:async_hooks';
import type { RequestDeadline } from './deadline';

/** What runs on behalf of a request, either its handlers or, after it failed, its error handlers. */
export interface RequestContext {
  readonly deadline: RequestDeadline;
  /** There once the response is no longer theirs to write: reports what they still do, and how it failed. */
  late: ((method: string, error?: unknown) => void) | undefined;
}

export const contexts = new AsyncLocalStorage<RequestContext>();
