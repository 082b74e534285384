import type { TaskContext } from 'express-unblock';

/** A module of tasks, as `offload.module<typeof import('./types-tasks.js')>` takes its types. */
export function count(text: string, word?: string): number {
  return text.split(word ?? ' ').length;
}

export async function load(path: string): Promise<Map<string, number>> {
  return new Map([[path, 1]]);
}

export function sum(...numbers: number[]): bigint {
  return BigInt(numbers.length);
}

export function report(this: TaskContext, share: number): number {
  this.progress(share);
  return share;
}

export const version = '1.0.0';
export const settings = { deep: true };
export class Parser {}
