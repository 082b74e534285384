// Offloads functions whose names for things are globals' names, and tells of each whether it was refused, and for what.
import { Buffer } from 'node:buffer';
import crypto from 'node:crypto';
import * as fetch from 'node:path';
import { performance } from 'node:perf_hooks';
import process from 'node:process';
import { setTimeout } from 'node:timers/promises';
import { URL } from 'node:url';
import { closePools, offload } from 'express-unblock';

function around(structuredClone) {
  return () => structuredClone(1);
}

function aroundBlock() {
  for (const atob of [1]) return () => atob;
}

function aroundCatch() {
  try {
    throw 1;
  } catch (queueMicrotask) {
    return () => queueMicrotask;
  }
}

const tasks = {
  'a default import': () => crypto.createHash('sha256'),
  'a named import': async () => setTimeout(10),
  'a namespace': () => fetch.basename('/a/b'),
  'declared further down': () => new Headers(),
  'a parameter around': around(1),
  'a variable of a block around': aroundBlock(),
  'a caught error around': aroundCatch(),
  'used in a nested function only': () => [1].map(() => crypto),
  'asked with typeof first': () => (typeof Response === 'undefined' ? 1 : new Response()),
  'the global': () => [typeof console.log, typeof Math.max, typeof JSON.parse, typeof atob, typeof structuredClone],
  'the global, imported': () => [Buffer.from('a').length, typeof performance.now, process.argv0, new URL('a:b').href],
  'its own, declared inside': () => {
    const crypto = { mine: 1 };
    return crypto.mine;
  },
  'its own parameter': (crypto = 1) => crypto,
};

class Headers {}
class Response {}

const outcomes = {};
for (const [name, task] of Object.entries(tasks)) {
  try {
    const run = offload(task);
    await run();
    outcomes[name] = 'runs';
  } catch (error) {
    outcomes[name] = error.code === 'ERR_UNBLOCK_NOT_SELF_CONTAINED' ? error.message.split('"')[1] : error.stack;
  }
}
console.log(JSON.stringify(outcomes));
await closePools();
