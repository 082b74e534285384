import { currentTask, type TaskContext } from './current-task';
import { importModule, load } from './tasks';

export type InPlace = (this: TaskContext, ...args: unknown[]) => unknown;

interface InPlaceOptions {
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((value: any) => void) | undefined;
}

/** In a worker, an offloaded function is the function itself: pools never nest. */
export function inPlace(fn: InPlace) {
  return async (args: unknown[], { signal, onProgress }: InPlaceOptions): Promise<unknown> => {
    signal?.throwIfAborted();
    const task = currentTask() as TaskContext;
    const self = {
      get signal() {
        return task.signal;
      },
      progress: onProgress === undefined ? task.progress : harmless(onProgress),
    };
    return fn.apply(self, args);
  };
}

/** The exports of a module, loaded in the process that calls them. */
export function moduleInPlace(url: string) {
  return (name: string) =>
    inPlace(async function imported(...args) {
      await importModule(url);
      return load({ kind: 'module', name, url }).apply(this, args);
    });
}

/** An error of a progress listener, thrown or rejected, ends neither the call nor the process. */
export function harmless(listener: (value: unknown) => void): (value: unknown) => void {
  return async (value) => {
    try {
      await listener(value);
    } catch {}
  };
}
