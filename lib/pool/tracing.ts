import { tracingChannel } from 'node:diagnostics_channel';
import type { Parcel } from '../wire';
import type { Call, CallLimits, Task } from './call';
import type { Pool } from './pool';

const tracing = tracingChannel('express-unblock:offload');

function isTraced(): boolean {
  const { start, end, asyncStart, asyncEnd, error } = tracing;
  return [start, end, asyncStart, asyncEnd, error].some(({ hasSubscribers }) => hasSubscribers);
}

/** Hands a call to the pool; whoever listens to the tracing channel hears of it. */
export function submitTraced(pool: Pool, task: Task, args: Parcel, limits: CallLimits): Promise<unknown> {
  if (!isTraced()) return pool.submit(task, args, limits);
  let call: Call | undefined;
  const since = (from: number | undefined, to: number | undefined) =>
    from === undefined || to === undefined ? undefined : to - from;
  const message = {
    task: task.definition.name,
    get queuedMs() {
      return since(call?.madeAt, call?.startedAt ?? call?.endedAt);
    },
    get runMs() {
      return since(call?.startedAt, call?.endedAt);
    },
    get outcome() {
      return call?.ending;
    },
    get pid() {
      return call?.pid;
    },
  };
  return tracing.tracePromise(
    () =>
      pool.submit(task, args, limits, (made) => {
        call = made;
      }),
    message,
  );
}
