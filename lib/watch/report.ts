import { channel } from 'node:diagnostics_channel';
import type { Block, Sample } from './main-thread';
import { type Place, placeOf } from './place';
import { routeOf } from './route';

/** A message on the channel `express-unblock:blocked`. */
export interface Blocked {
  /** `GET /users/:id`; the path where no route had taken the request; `undefined` outside of a request. */
  readonly route: string | undefined;
  /** How long JavaScript held the event loop. */
  readonly ms: number;
  /** CPU time that the main thread had meanwhile; much less than `ms` on a machine that is busy with something else. */
  readonly cpuMs: number;
  /** `compare (similar.js:40)`, followed by what it was in the midst of, if that is not its own code. */
  readonly at: string;
  /** What to do, in a few words. */
  readonly advice: string;
  /** As of an error, from the innermost function outwards. */
  readonly stack: string;
}

const blocked = channel('express-unblock:blocked');

/** How long the lines of one route and place are kept apart. */
const EVERY_MS = 10_000;

interface Told {
  count: number;
  worst: number;
  line: string;
  timer: NodeJS.Timeout;
}

/** Publishes every block, and logs a line for each route and place every ten seconds. */
export class Reporter {
  readonly #log: (line: string) => void;
  readonly #threshold: number;
  readonly #told = new Map<string, Told>();

  constructor(log: (line: string) => void, threshold: number) {
    // Lines are logged by a timer, where nobody could catch what a logger throws.
    this.#log = async (line) => {
      try {
        await log(line);
      } catch (cause) {
        process.emitWarning(`The log of watch() failed: ${String(cause)}`);
      }
    };
    this.#threshold = threshold;
  }

  onBlock(block: Block): void {
    const found = find(block);
    if (!found?.agree || !found.place.known || !this.#hasWorked(block, found)) return;
    const event = eventOf(block, found);
    if (blocked.hasSubscribers) blocked.publish(event);
    this.#tell(`${event.route}\n${found.place.key}`, event.ms, lineOf(event, found, block));
  }

  stop(): void {
    for (const { timer } of this.#told.values()) clearTimeout(timer);
    this.#told.clear();
  }

  /**
   * A busy machine holds everybody up, and a debugger stands still. What blocks uses CPU time, if little on such a
   * machine, or it waits in a call that says so by its name.
   */
  #hasWorked({ ms, cpuMs }: Block, { place }: Found): boolean {
    return place.waits || cpuMs >= Math.max(this.#threshold / 2, ms / 20);
  }

  #tell(key: string, ms: number, line: string): void {
    const told = this.#told.get(key);
    if (told === undefined) {
      this.#log(line);
      this.#told.set(key, { count: 0, worst: 0, line, timer: this.#later(key) });
      return;
    }
    told.count++;
    told.worst = Math.max(told.worst, ms);
    told.line = line;
  }

  #later(key: string): NodeJS.Timeout {
    return setTimeout(() => this.#tellRest(key), EVERY_MS).unref();
  }

  #tellRest(key: string): void {
    const { count, worst, line } = this.#told.get(key) as Told;
    this.#told.delete(key);
    if (count === 0) return;
    this.#told.set(key, { count: 0, worst: 0, line, timer: this.#later(key) });
    this.#log(count === 1 ? line : `${line} (${count} times in 10 s, worst ${worst} ms)`);
  }
}

/** For a process that is to end. */
export function lastLine(block: Block): string {
  const found = find(block);
  if (found === undefined) return `express-unblock: something has blocked the event loop for ${block.ms} ms`;
  return lineOf(eventOf(block, found), found, block);
}

interface Found {
  readonly place: Place;
  readonly sample: Sample;
  /** Samples of the same callback: they agree where two are of one request, or outside of any in one function. */
  readonly agree: boolean;
}

/** The place in which most of the block's time was spent. */
function find({ samples }: Block): Found | undefined {
  const ofOne = heaviest(samples, ({ request }) => request);
  const placed = ofOne.map((sample) => ({ sample, weight: sample.weight, place: placeOf(sample) }));
  const known = placed.filter(({ place }) => place.known);
  const inOne = heaviest(known.length > 0 ? known : placed, ({ place }) => place.key);
  // A late answer may be from after the native code that delayed it; two samples in time are surer of the place.
  const prompt = inOne.filter(({ sample }) => !sample.late);
  // A library has many places, none of which may weigh much: they count together before they are told apart.
  const atLine = heaviest(prompt.length > 1 ? prompt : inOne, ({ place }) => place.line);
  const ofOneKind = heaviest(atLine, ({ place }) => place.advice);
  const [found] = heaviest(ofOneKind, ({ place }) => place.at);
  if (found === undefined) return undefined;
  const { sample, place } = found;
  const agreeing = sample.request === undefined ? inOne : ofOne;
  return { sample, place, agree: agreeing.length > 1 || sample.late };
}

function heaviest<T extends { readonly weight: number }>(all: readonly T[], keyOf: (one: T) => unknown): readonly T[] {
  const groups = new Map<unknown, T[]>();
  for (const one of all) groups.set(keyOf(one), [...(groups.get(keyOf(one)) ?? []), one]);
  const weight = (group: readonly T[]) => group.reduce((sum, one) => sum + one.weight, 0);
  return [...groups.values()].sort((a, b) => weight(b) - weight(a))[0] ?? [];
}

function eventOf({ ms, cpuMs }: Block, { sample, place }: Found): Blocked {
  const { at, advice, stack } = place;
  return { route: routeOf(sample), ms: Math.round(ms), cpuMs: Math.round(cpuMs), at, advice, stack };
}

function lineOf({ route, ms, cpuMs, at, advice }: Blocked, { sample, place }: Found, { gcMs }: Block): string {
  const who =
    route === undefined
      ? 'something outside of a request'
      : `${route}${sample.answered ? ', after its response,' : ''}`;
  return `express-unblock: ${who} blocked the event loop for ${ms} ms in ${at}${noteOf()}: ${advice}`;

  function noteOf(): string {
    if (place.waits) return '';
    if (gcMs > ms / 2) return ` (garbage collection took ${Math.round(Math.min(gcMs, ms))} ms of it)`;
    if (cpuMs < ms / 2) return ` (it had ${cpuMs} ms of CPU time: the machine is busy)`;
    return '';
  }
}
