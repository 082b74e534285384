import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import v8 from 'node:v8';
import type { Ending } from '../pool/call';
import { type Parcel, wrap } from '../wire';

/** The messages between a pool and its services, and their names in Redis. */

/** Without word from Redis for this long, a service's jobs are taken for lost: it has to stop them itself. */
export const LOCK_MS = 3500;
/** How often each side tells Redis that it lives, and looks at what concerns it. */
export const BEAT_MS = 500;
/** A service that has not told for this long is not there. */
export const SERVICE_LIFE_MS = 3000;
/** A pool that has not given a sign for this long is not there, and its calls are stopped. */
export const CALLER_LIFE_MS = 5000;
/** How often it gives one, and after how long without it none of its calls begins: it may have given them up. */
export const SIGN_MS = 250;
export const SIGN_LIFE_MS = 1000;
/** A connection on which an answer is this late is given up. */
export const SILENCE_MS = 4000;

/** What a call is to its service, as the data of a BullMQ job. Times are on the clock of Redis. */
export interface CallData {
  /** The pool that made it. */
  readonly caller: string;
  /** The run of Redis that it was given to: after a failover another one may have forgotten that it was begun. */
  readonly run: string;
  readonly module: string;
  /** When its caller gives it up, as of its making: the deadline of a request may be moved. */
  readonly expiresAt: number;
  /** When its own time is over, which nothing moves. */
  readonly endsAt: number;
  /** How long its result may be. */
  readonly maxBytes: number;
  /** In base64: a job's data are JSON. */
  readonly args: string;
}

/** The field of a job in which its caller moves `expiresAt`; 0 where it has given the call up. */
export const EXPIRES_AT = 'unblock:expiresAt';

/** Services of different versions never meet: each has a queue of its own. */
export function namesOf(queue: string, version: string | undefined) {
  const name = version === undefined ? queue : `${queue}@${version}`;
  const key = `unblock:{${name}}`;
  return {
    queue: name,
    /** A channel that all services hear: which calls were given up, or got more time. */
    moves: `${key}:moves`,
    /** A sorted set of the live services by the end of their lives. */
    services: `${key}:services`,
    /** The stream on which a pool hears from all services; it lives as long as the pool. */
    replies: (caller: string) => `${key}:replies:${caller}`,
  };
}

/**
 * What a service tells of a call: how it ended, or
 * - `began`, `progress`: it is under way
 * - `lost`: it was begun, and nobody knows how far it came
 * - `unstarted`: it was not begun, since its time was over, or its caller has given no sign lately
 * - `stale`: it was given to a Redis that has failed over since; whether it was begun, nobody knows
 */
export type ReplyKind = Ending | 'began' | 'progress' | 'lost' | 'unstarted' | 'stale' | 'mark';

export interface Reply {
  readonly call: string;
  readonly kind: ReplyKind;
  /** Its number among those of this call: where an answer of Redis was lost, a reply is sent again. */
  readonly number: number;
  readonly runMs: number;
  /** The worker process. */
  readonly pid: number | undefined;
  readonly body: Buffer;
}

const NOTHING = Buffer.alloc(0);

/** As the fields of an entry of a stream. */
export function packReply(
  call: string,
  kind: ReplyKind,
  { number = 0, runMs = 0, pid = 0, body = NOTHING as Uint8Array } = {},
): [string, ...(string | Buffer)[]] {
  const facts = ['call', call, 'kind', kind, 'number', String(number), 'ms', runMs.toFixed(3), 'pid', String(pid)];
  return [...(facts as [string]), 'body', Buffer.from(body)];
}

export function unpackReply(fields: readonly Buffer[]): Reply {
  const [call, kind, number, ms, pid] = [1, 3, 5, 7, 9].map((at) => String(fields[at]));
  return {
    call: call as string,
    kind: kind as ReplyKind,
    number: Number(number),
    runMs: Number(ms),
    pid: Number(pid) || undefined,
    body: fields[11] ?? NOTHING,
  };
}

/** As the message on the channel of moves: the call, its new `expiresAt`, and why it was given up. */
export function packMove(call: string, expiresAt: number, reason: Uint8Array = NOTHING): string {
  return JSON.stringify([call, expiresAt, Buffer.from(reason).toString('base64')]);
}

/** @returns nothing for what no pool has said */
export function unpackMove(message: string): { call: string; expiresAt: number; reason: Buffer } | undefined {
  try {
    const [call, expiresAt, reason] = JSON.parse(message);
    return { call, expiresAt: Number(expiresAt), reason: Buffer.from(reason, 'base64') };
  } catch {
    return undefined;
  }
}

export function bytesOf(value: unknown): Uint8Array {
  return toBytes(wrap(value));
}

export function toBytes(parcel: Parcel): Uint8Array {
  return 'plain' in parcel ? v8.serialize(parcel.plain) : parcel;
}

/** A file has the same name on all machines: that of its package, and its path within it. */
export function moduleName(url: string): string {
  const file = fileURLToPath(url);
  for (let directory = path.dirname(file); ; directory = path.dirname(directory)) {
    const name = packageName(directory);
    const isRoot = directory === path.dirname(directory);
    if (name === undefined && !isRoot) continue;
    return [name ?? '', ...path.relative(directory, file).split(path.sep)].join('/');
  }
}

/** Some have no name, and only say what kind of modules is in their folder. */
function packageName(directory: string): string | undefined {
  const file = path.join(directory, 'package.json');
  return existsSync(file) ? JSON.parse(readFileSync(file, 'utf8')).name : undefined;
}
