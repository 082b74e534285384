import { randomUUID } from 'node:crypto';
import type { Redis } from 'ioredis';
import { CALLER_LIFE_MS, packReply, type Reply, SIGN_MS, SILENCE_MS, unpackReply } from './protocol';

const RETRY_MS = 50;
/** How long earlier replies may take to arrive. */
const MARK_MS = 2000;
const MOST_AT_ONCE = 100;

interface ReplyListener {
  onReply(reply: Reply): void;
  /** Redis has forgotten the stream, and all that was said on it. */
  onForgotten(): void;
}

/**
 * What a pool hears from its services: a stream in Redis. It lives while its pool asks for it again and again, which
 * tells services that somebody waits for their results.
 */
export class ReplyStream {
  readonly #redis: Redis;
  readonly #key: string;
  readonly #listener: ReplyListener;
  readonly #marks = new Map<string, () => void>();
  #lastId = '0-0';
  #isOver = false;

  /** @param redis a connection that nobody else uses, since reading blocks it */
  constructor(redis: Redis, key: string, listener: ReplyListener) {
    this.#redis = redis;
    this.#key = key;
    this.#listener = listener;
    void this.#read();
  }

  /** Opened before the first call, since services write only to a stream that exists. */
  async open(redis: Redis): Promise<void> {
    if ((await redis.pexpire(this.#key, CALLER_LIFE_MS)) === 1) return;
    this.#lastId = '0-0';
    await redis
      .multi()
      .xadd(this.#key, '*', ...this.#mark(''))
      .pexpire(this.#key, CALLER_LIFE_MS)
      .exec();
    this.#listener.onForgotten();
  }

  /** @returns whether all that had been said by now has been read */
  async readAll(redis: Redis): Promise<boolean> {
    const mark = randomUUID();
    const read = new Promise<boolean>((resolve) => {
      this.#marks.set(mark, () => resolve(true));
      setTimeout(resolve, MARK_MS, false).unref();
    });
    await redis.xadd(this.#key, 'NOMKSTREAM', '*', ...this.#mark(mark));
    const isRead = await read;
    this.#marks.delete(mark);
    return isRead;
  }

  async close(redis: Redis): Promise<void> {
    this.#isOver = true;
    await redis.del(this.#key);
  }

  #mark(name: string): [string, ...(string | Buffer)[]] {
    return packReply(name, 'mark');
  }

  async #read(): Promise<void> {
    while (!this.#isOver) {
      // No answer comes if the connection was cut and neither side was told.
      const silence = setTimeout(() => this.#redis.disconnect(), SILENCE_MS).unref();
      try {
        await this.#readOnce();
      } catch {
        await new Promise((resolve) => setTimeout(resolve, RETRY_MS).unref());
      } finally {
        clearTimeout(silence);
      }
    }
  }

  async #readOnce(): Promise<void> {
    const [lives, , streams] = await Promise.all([
      this.#redis.pexpire(this.#key, CALLER_LIFE_MS),
      this.#redis.xtrim(this.#key, 'MINID', this.#lastId),
      this.#redis.xreadBuffer('COUNT', MOST_AT_ONCE, 'BLOCK', SIGN_MS, 'STREAMS', this.#key, this.#lastId),
    ]);
    if (lives === 0 && !this.#isOver) await this.open(this.#redis);
    for (const [id, fields] of streams?.[0]?.[1] ?? []) {
      this.#lastId = String(id);
      const reply = unpackReply(fields);
      if (reply.kind === 'mark') this.#marks.get(reply.call)?.();
      else this.#listener.onReply(reply);
    }
  }
}
