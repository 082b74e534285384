export interface JsonLimits {
  /** How deep arrays and objects may be nested. `[]` has depth 1. */
  readonly depth?: number | undefined;
  /** How many members all objects together may have. */
  readonly keys?: number | undefined;
}

const QUOTE = 0x22;
const BACKSLASH = 0x5c;

/** What a byte outside of strings means: 0 for most, a quote for itself. */
const MEANING = new Uint8Array(256);
const COLON = 1;
const OPENING = 2;
const CLOSING = 3;
MEANING[QUOTE] = QUOTE;
MEANING[0x3a] = COLON;
for (const byte of Buffer.from('[{')) MEANING[byte] = OPENING;
for (const byte of Buffer.from(']}')) MEANING[byte] = CLOSING;

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
    const { maxDepth, maxKeys } = this;
    let { depth, keys } = this;
    let inString = this.#inString;
    let at = this.#escaped ? 1 : 0;
    while (at < length) {
      if (inString) {
        let byte = 0;
        while (at < length) {
          byte = chunk[at++] as number;
          if (byte === QUOTE || byte === BACKSLASH) break;
        }
        if (byte === QUOTE) inString = false;
        else if (byte === BACKSLASH) at++;
        continue;
      }
      const meaning = MEANING[chunk[at++] as number];
      if (meaning === 0) continue;
      if (meaning === QUOTE) inString = true;
      else if (meaning === CLOSING) depth--;
      else if (meaning === COLON) keys++;
      else depth++;
      if (depth > maxDepth || keys > maxKeys) break;
    }
    this.depth = depth;
    this.keys = keys;
    this.#inString = inString;
    this.#escaped = at > length;
    return depth > maxDepth ? 'depth' : keys > maxKeys ? 'keys' : undefined;
  }
}
