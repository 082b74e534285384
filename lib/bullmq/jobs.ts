import type { Queue } from 'bullmq';
import type { Redis } from 'ioredis';
import { packThrown } from '../wire';
import { type CallData, EXPIRES_AT, packMove } from './protocol';
import { loadPeers } from './redis';

/** BullMQ has 21 bits for the priority of a job: two bands of deadlines, of which each begins anew after 14.5 hours. */
const BAND = 2 ** 20 - 1;
const RESOLUTION_MS = 50;

/** By deadline, after all those that can still be done in time. */
function priorityOf(expiresAt: number, isFeasible: boolean): number {
  return 1 + (Math.floor(expiresAt / RESOLUTION_MS) % BAND) + (isFeasible ? 0 : BAND);
}

/** The job's own field is for services that have not begun it, or do not hear the message. */
const MOVE = `
if redis.call('EXISTS', KEYS[1]) == 1 then redis.call('HSET', KEYS[1], '${EXPIRES_AT}', ARGV[1]) end
return redis.call('PUBLISH', ARGV[2], ARGV[3])`;

/** The calls of a pool as jobs of BullMQ, each under a name of its own. */
export class JobQueue {
  readonly #queue: Queue;
  readonly #redis: Redis;
  readonly #moves: string;

  /** @param moves the channel on which services hear of a moved end */
  constructor(name: string, redis: Redis, moves: string) {
    const { Queue } = loadPeers();
    this.#redis = redis;
    this.#moves = moves;
    this.#queue = new Queue(name, {
      connection: redis as never,
      streams: { events: { maxLen: 0 } },
      defaultJobOptions: { attempts: 1, removeOnComplete: true, removeOnFail: true, stackTraceLimit: 0 },
    });
    this.#queue.on('error', () => {}); // The caller of each operation gets its error.
  }

  async ready(): Promise<void> {
    await this.#queue.waitUntilReady();
  }

  async add(id: string, name: string, data: CallData): Promise<void> {
    // Jobs without a priority are in a list, from which one is removed in O(n).
    await this.#queue.add(name, data, { jobId: id, priority: priorityOf(data.expiresAt, true) });
  }

  /** Moves it behind all calls that can still be done in time, unless it was begun. */
  async demote(id: string, expiresAt: number): Promise<void> {
    const { Job } = require('bullmq') as typeof import('bullmq');
    await new Job(this.#queue, '', {}, {}, id).changePriority({ priority: priorityOf(expiresAt, false) });
  }

  /** Takes it out of the queue; if a service has it already, tells that service. */
  async takeBack(id: string, reason: unknown): Promise<void> {
    if (!(await this.remove(id))) await this.move(id, 0, reason);
  }

  /** @returns whether it is gone; a job that a service holds cannot be removed */
  async remove(id: string): Promise<boolean> {
    return (await this.#queue.remove(id)) !== 0;
  }

  /** Tells when the call ends now; 0 for one that was given up. */
  async move(id: string, expiresAt: number, reason?: unknown): Promise<void> {
    const message = packMove(id, expiresAt, reason === undefined ? undefined : packThrown(reason));
    await this.#redis.eval(MOVE, 1, this.#key(id), String(expiresAt), this.#moves, message);
  }

  /** Whether Redis has it, and no service was found to have stopped renewing it. */
  async isKnown(id: string): Promise<boolean> {
    const [name, failure] = await this.#redis.hmget(this.#key(id), 'name', 'defa');
    return typeof name === 'string' && failure === null;
  }

  async isBegun(id: string): Promise<boolean> {
    return (await this.#redis.hget(this.#key(id), 'processedOn')) !== null;
  }

  /** How many jobs wait, of all pools, and how many services hold. */
  async count(): Promise<{ waiting: number; active: number }> {
    const [prioritized, stalled, active] = await Promise.all([
      this.#redis.zcard(this.#key('prioritized')),
      this.#redis.llen(this.#key('wait')),
      this.#redis.llen(this.#key('active')),
    ]);
    return { waiting: prioritized + stalled, active };
  }

  async close(): Promise<void> {
    await this.#queue.close();
  }

  #key(of: string): string {
    return this.#queue.toKey(of);
  }
}
