/**
 * The plan: what each call is, and what goes wrong beside it. It depends on the seed and the call's number only, so
 * that any part of a run can be played again, alone.
 */

export const WORKERS = 3;
export const SPARE = 1;
export const MAX_QUEUE = 12;
/** Bytes that `limitInput` lets through. */
export const LIMIT = 16 * 1024;
/** Tasks that nobody stops end by themselves after this long, and leave a trace that says so. */
export const NATURAL_END_MS = 2500;
/** Long enough that nothing excuses a timeout. */
export const PATIENT_MS = 5000;

export const THROWN = [
  'null',
  'empty',
  'text',
  'zero',
  'nothing',
  'symbol',
  'function',
  'circular',
  'circularError',
].concat(['instance', 'coded', 'getter', 'bare', 'okay', 'aggregate']);
export const UNCLONABLE = ['function', 'symbol', 'method', 'promise', 'weakMap', 'getter'];
/** What never ends within its deadline: each has to be stopped, by interrupt or by kill. */
export const ENDLESS = [
  'spin',
  'beat',
  'regex',
  'stubborn',
  'afterAwait',
  'microtasks',
  'timers',
  'never',
  'listens',
].concat(['pbkdf2', 'atomicsWait']);
export const DEADLY = ['exit', 'abort', 'kill', 'segfault', 'memory', 'disconnect', 'throwsLater'];
/** What the app does by itself, without a worker. */
export const LOCAL = ['later', 'mute', 'throwsLate', 'stream', 'cut', 'silent', 'extend'];

/** Modules: slow ones offloaded from the start and later on, and such as cannot be imported. */
export const IMPORTED = ['slow', 'slow', 'late', 'late', 'throws', 'exits'];

/** What the app calls in its own way. */
const CALLED_ONLY = ['roundTrip', 'progress', 'fan', 'unclonableArgument', 'ownTimeout', 'ownSignal'];

const TASKS = {
  echo: 24,
  pause: 10,
  compute: 8,
  roundTrip: 4,
  text: 3,
  bytes: 3,
  nothing: 2,
  progress: 3,
  fan: 3,
  fling: 6,
  unclonableResult: 3,
  unclonableArgument: 2,
  recurse: 1,
  ownTimeout: 2,
  ownSignal: 2,
  endless: 3,
  deadly: 1,
  bomb: 0.2,
  local: 9,
  imported: 2,
};

const UPLOADS = { whole: 60, pieces: 8, chunked: 14, expect: 6, stalled: 3, malformed: 2, deep: 2 };
const SIZES = { small: 84, exact: 4, oneOver: 4, over: 5, huge: 2 };
const STAGES = { connect: 1, head: 1, body: 2, sent: 8, response: 1 };
const SIGNALS = { SIGKILL: 5, SIGSEGV: 2, SIGSTOP: 2, group: 3 };
/** What process managers send to all processes of an app: it ends no call. */
const GROUP_SIGNALS = ['SIGTERM', 'SIGINT', 'SIGHUP', 'SIGQUIT'];

/** @returns {() => number} the numbers from 0 to 1 that belong to one call of one seed (mulberry32) */
function randomFor(seed, index) {
  let state = (Math.imul(seed ^ 0x9e3779b9, 0x85ebca6b) ^ Math.imul(index + 1, 0xc2b2ae35)) >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

export function planOf(seed, index) {
  const random = randomFor(seed, index);
  const chance = (probability) => random() < probability;
  const between = (least, most) => Math.floor(least + random() * (most - least + 1));
  const oneOf = (list) => list[between(0, list.length - 1)];
  const weighed = (weights) => {
    let at = random() * Object.values(weights).reduce((sum, weight) => sum + weight);
    for (const [name, weight] of Object.entries(weights)) {
      at -= weight;
      if (at < 0) return name;
    }
    return Object.keys(weights)[0];
  };

  const kind = weighed(TASKS);
  const task =
    {
      endless: () => oneOf(ENDLESS),
      deadly: () => oneOf(DEADLY),
      local: () => oneOf(LOCAL),
      imported: () => oneOf(IMPORTED),
    }[kind]?.() ?? kind;
  const variant = {
    fling: () => oneOf(THROWN),
    unclonableResult: () => oneOf(UNCLONABLE),
    exit: () => oneOf([0, 1, 77]),
  };
  const quick = kind !== 'endless' && kind !== 'local';
  const client = chance(0.7) ? 'raw' : 'http';
  const upload = planUpload({ chance, between, weighed, plain: task === 'silent' });
  // What waits for its deadline should not have to wait for long.
  const deadline = quick && upload.how !== 'stalled' && chance(0.75) ? PATIENT_MS : between(60, 450);
  const leaves = chance(0.1);
  const stage = leaves ? weighed(STAGES) : undefined;

  return {
    index,
    nonce: Math.floor(random() * 2 ** 32)
      .toString(16)
      .padStart(8, '0'),
    kind,
    task,
    variant: variant[task]?.(),
    ms: planTime(task, deadline, between),
    deadline,
    way: kind === 'local' || kind === 'imported' ? kind : oneOf(['interrupt', 'interrupt', 'kill', 'module']),
    handler: chance(0.3) && kind !== 'local' && kind !== 'imported' && !CALLED_ONLY.includes(task),
    client: stage === 'connect' || stage === 'head' ? 'raw' : client,
    upload,
    /** By `limitInput`, before anything else looks at it. */
    refused: upload.over || upload.how === 'deep',
    leave: leaves
      ? {
          stage,
          after: between(0, 150),
          by: oneOf(client === 'raw' ? ['close', 'reset', 'halfClose'] : ['close', 'reset']),
        }
      : undefined,
    afterwards: oneOf(['close', 'ping', 'pipeline']),
    fault: chance(0.02) ? planFault({ chance, between, oneOf, weighed, random }) : undefined,
  };
}

function planUpload({ chance, between, weighed, plain: simple }) {
  const how = simple ? 'whole' : weighed(UPLOADS);
  const plain = simple || how === 'stalled' || how === 'malformed' || how === 'deep';
  const size = plain ? 'small' : weighed(SIZES);
  const bytes = {
    small: 0,
    exact: LIMIT,
    oneOver: LIMIT + 1,
    over: between(LIMIT + 2, 10 * LIMIT),
    huge: between(300_000, 1_500_000),
  };
  return {
    how,
    /** 0 for as small as it can be. */
    bytes: bytes[size],
    over: bytes[size] > LIMIT,
    chunked: how === 'chunked' || (how === 'stalled' && chance(0.5)),
    pieces: how === 'pieces' || how === 'chunked' ? between(2, 6) : 1,
    gap: between(0, 12),
  };
}

/** How long a task takes: around its deadline, or well below. */
function planTime(task, deadline, between) {
  if (task === 'later' || task === 'throwsLate') return between(1, 2 * deadline);
  if (task === 'extend' || task === 'stream' || task === 'cut') return between(deadline + 50, deadline + 300);
  if (task === 'ownTimeout' || task === 'ownSignal') return between(20, 200);
  return between(1, 40);
}

function planFault({ chance, between, oneOf, weighed, random }) {
  const signal = weighed(SIGNALS);
  if (signal === 'group') return { signal: oneOf(GROUP_SIGNALS), target: 'all', after: between(0, 100) };
  return {
    signal,
    target: chance(0.5) ? 'busy' : 'idle',
    pick: random(),
    after: between(0, 100),
    /** What a stopped worker was handed meanwhile goes on, or has to move elsewhere. */
    next: signal === 'SIGSTOP' ? { signal: chance(0.6) ? 'SIGCONT' : 'SIGKILL', after: between(10, 1500) } : undefined,
  };
}
