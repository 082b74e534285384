/** What somebody waits for, in the way of a condition variable. */
export class Condition {
  readonly #waiting = new Set<() => void>();

  /** @param lookEvery how often to look whether it holds where nobody tells, in milliseconds */
  constructor(readonly lookEvery = 60_000) {}

  /** Neither workers nor connections keep a process alive; somebody who waits for them does. */
  async until(holds: () => boolean): Promise<void> {
    const looking = setInterval(() => this.changed(), this.lookEvery);
    while (!holds()) await new Promise<void>((resolve) => this.#waiting.add(resolve));
    clearInterval(looking);
  }

  /** It may hold now. */
  changed(): void {
    const waiting = [...this.#waiting];
    this.#waiting.clear();
    for (const goOn of waiting) goOn();
  }
}
