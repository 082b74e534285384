/** Time after which half of a peak is forgotten. */
const HALF_LIFE_MS = 2000;

/** The largest of the values added lately: it fades with time, however few come after. */
export class FadingPeak {
  #value = 0;
  #setAt = 0;

  get value(): number {
    return this.#value * 2 ** ((this.#setAt - performance.now()) / HALF_LIFE_MS);
  }

  add(value: number): void {
    if (value < this.value) return;
    this.#value = value;
    this.#setAt = performance.now();
  }
}
