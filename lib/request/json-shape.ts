export interface JsonLimits {
  /** How deep arrays and objects may be nested. `[]` has depth 1. */
  readonly depth?: number | undefined;
  /** How many members all objects together may have. */
  readonly keys?: number | undefined;
}

const QUOTE = 0x22;
const BACKSLASH = 0x5c;
const COLON = 0x3a;

/**
 * Watches the shape of JSON as its bytes arrive, in chunks that may end anywhere. Only what stands outside of strings
 * counts, and UTF-8 never uses the bytes of ASCII within a longer character, so that bytes are all it needs.
 */
export class JsonShape {
  depth = 0;
  keys = 0;
  readonly maxDepth: number;
  readonly maxKeys: number;
  #inString = false;
  #escaped = false;

  constructor(limits: JsonLimits) {
    this.maxDepth = limits.depth ?? Number.POSITIVE_INFINITY;
    this.maxKeys = limits.keys ?? Number.POSITIVE_INFINITY;
  }

  /** The limit that this chunk broke, if it did. */
  scan(chunk: Uint8Array): 'depth' | 'keys' | undefined {
    const { length } = chunk;
    let { depth, keys } = this;
    let inString = this.#inString;
    let at = this.#escaped ? 1 : 0;
    for (; at < length; at++) {
      const byte = chunk[at];
      if (inString) {
        if (byte === QUOTE) inString = false;
        else if (byte === BACKSLASH) at++;
      } else if (byte === QUOTE) inString = true;
      else if (byte === COLON) keys++;
      // [ and ] differ from { and } in one bit.
      else if (((byte as number) | 0x20) === 0x7b) {
        if (++depth > this.maxDepth) break;
      } else if (((byte as number) | 0x20) === 0x7d) depth--;
      if (keys > this.maxKeys) break;
    }
    this.depth = depth;
    this.keys = keys;
    this.#inString = inString;
    this.#escaped = at > length;
    return depth > this.maxDepth ? 'depth' : keys > this.maxKeys ? 'keys' : undefined;
  }
}
