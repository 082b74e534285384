const MOST = 1000;

/** A cache of a bounded size, since its keys may be names or texts that clients choose. */
export class Recent<Value> {
  readonly #values = new Map<string, Value>();

  get(key: string, make: (key: string) => Value): Value {
    const value = this.#values.get(key) ?? make(key);
    this.#values.delete(key);
    this.#values.set(key, value);
    const [oldest] = this.#values.keys();
    if (this.#values.size > MOST) this.#values.delete(oldest as string);
    return value;
  }
}
