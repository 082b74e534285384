/** The numbers that a worker's main thread and its keeper share. */
export const CELLS = {
  /** Never changes: the keeper sleeps on it. */
  sleep: 0,
  /** How many signals the keeper has caught. */
  caught: 1,
  /** How many it had caught when it last entered its script; less than `caught` while it is outside. */
  inside: 2,
  /** 1 while the main thread is in a task, or on its way there. */
  busy: 3,
} as const;
