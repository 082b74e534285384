import { setTimeout as wait } from 'node:timers/promises';
import { openRaw, openReused } from './wires.mjs';

/** How much later than its deadline an answer may be, on a machine that is busy with everything else. */
export const ALLOWANCE_MS = 1500;
/** What has not come by then never comes; what came late is judged by how late the machine made everything else. */
export const NEVER_MS = 15_000;
/** After the last answer due, for one too many to arrive. */
const LISTEN_ON_MS = 15;

/** Makes one call as planned. @returns what its client saw */
export async function perform(spec, { port, agent }) {
  const seen = {
    answer: undefined,
    answeredAt: undefined,
    /** Answers beyond the one. */
    pong: undefined,
    extra: 0,
    continued: 0,
    ended: undefined,
    sentAt: undefined,
    leftAt: undefined,
    hung: false,
    rest: '',
  };
  const events = new Signal();
  const gone = () => seen.leftAt !== undefined && spec.leave.by !== 'halfClose';
  const hear = (event, value) => {
    if (gone()) return;
    if (event === 'reuse') seen.statusBefore = value;
    if (event === 'continue') seen.continued++;
    if (event === 'end') seen.ended ??= value;
    if (event === 'begin' && spec.leave?.stage === 'response') leave();
    if (event === 'answer') keep(seen, value);
    events.happened();
  };
  const body = bodyOf(spec);
  const request = requestOf(spec, body);
  const wire = spec.client === 'raw' ? openRaw(port, request, hear) : openReused(agent, port, request, hear);
  const leave = () => {
    seen.leftAt ??= Date.now();
    wire.leave(spec.leave.by);
    events.happened();
  };
  await wire.ready;
  seen.sentAt = Date.now();

  const uploading = upload(spec, body, wire, { seen, events, leave });
  const over = () => seen.ended !== undefined || gone();
  seen.hung = !(await events.until(() => seen.answer !== undefined || over(), NEVER_MS));
  seen.endedAt = Date.now();

  if (seen.answer !== undefined && spec.client === 'raw' && seen.leftAt === undefined)
    await reuse(spec, wire, { seen, events, uploading });
  await wait(LISTEN_ON_MS);
  seen.rest = wire.rest;
  seen.done = true;
  wire.close();
  events.happened();
  await uploading;
  return seen;
}

function keep(seen, answer) {
  if (seen.answer === undefined) {
    seen.answer = answer;
    seen.answeredAt = Date.now();
  } else if (seen.expectsPong && seen.pong === undefined) seen.pong = answer;
  else seen.extra++;
}

/** The connection must be as good as new, where the server keeps it. */
async function reuse(spec, wire, { seen, events, uploading }) {
  if (spec.afterwards === 'close' || spec.upload.how === 'stalled' || seen.answer.headers.connection === 'close')
    return;
  if (seen.answer.status === 413 || !seen.expectsPong) {
    await uploading;
    await wait(LISTEN_ON_MS);
    if (seen.ended !== undefined) return;
    seen.expectsPong = true;
    wire.ping(`${spec.index}p`);
  }
  await events.until(() => seen.pong !== undefined || seen.ended !== undefined, ALLOWANCE_MS * 2);
}

function requestOf(spec, body) {
  const path = `/${spec.handler ? 'handler' : 'call'}/${spec.way}/${spec.task}`;
  const length = spec.upload.chunked ? { 'transfer-encoding': 'chunked' } : { 'content-length': String(body.length) };
  return {
    method: 'POST',
    path: ['local', 'imported'].includes(spec.way) ? `/${spec.way}/${spec.task}` : path,
    headers: {
      'content-type': 'application/json',
      'x-id': String(spec.index),
      'x-deadline': String(spec.deadline),
      ...length,
      ...(spec.upload.how === 'expect' ? { expect: '100-continue' } : {}),
    },
  };
}

function bodyOf({ index, nonce, ms, variant, upload }) {
  if (upload.how === 'malformed') return '{"id":';
  if (upload.how === 'deep') return '['.repeat(40) + ']'.repeat(40);
  const bare = JSON.stringify({ id: index, nonce, ms, variant, pad: '' });
  return JSON.stringify({ id: index, nonce, ms, variant, pad: 'x'.repeat(Math.max(0, upload.bytes - bare.length)) });
}

async function upload(spec, body, wire, { seen, events, leave }) {
  const { how, pieces, gap } = spec.upload;
  const stop = () => seen.ended !== undefined || seen.leftAt !== undefined || seen.done;
  const leavesAt = (stage) => {
    const leaves = spec.leave?.stage === stage && !stop() && seen.answer === undefined;
    if (leaves) leave();
    return leaves;
  };

  if (leavesAt('connect')) return;
  if (spec.leave?.stage === 'head') {
    wire.writeHead(wire.headText.slice(0, wire.headText.length / 2));
    await wait(spec.leave.after / 10);
    leavesAt('head');
    return;
  }
  wire.writeHead(wire.headText);
  if (how === 'expect') {
    await events.until(() => seen.continued > 0 || seen.answer !== undefined || stop(), spec.deadline);
    if (seen.continued === 0) return;
  }
  const halves = how === 'stalled' || spec.leave?.stage === 'body';
  const size = Math.ceil(body.length / Math.max(pieces, halves ? 2 : 1));
  for (let at = 0; at < body.length && !stop(); at += size) {
    if (at > 0 && gap > 0 && pieces > 1) await wait(gap);
    if (at > 0 && leavesAt('body')) return;
    if (at > 0 && how === 'stalled') return;
    if (!stop()) wire.write(body.slice(at, at + size));
  }
  if (stop()) return;
  wire.endBody();
  if (
    spec.afterwards === 'pipeline' &&
    spec.client === 'raw' &&
    !spec.refused &&
    seen.answer === undefined &&
    !spec.leave
  ) {
    seen.expectsPong = true;
    wire.ping(`${spec.index}p`);
  }
  if (spec.leave?.stage !== 'sent') return;
  await events.until(() => seen.answer !== undefined || stop(), spec.leave.after);
  leavesAt('sent');
}

/** Something may have happened: whoever waits looks again. */
class Signal {
  #waiting = new Set();

  happened() {
    for (const look of [...this.#waiting]) look();
  }

  /** @returns whether the condition came true in time */
  until(condition, patience) {
    if (condition()) return Promise.resolve(true);
    return new Promise((resolve) => {
      const finish = (result) => {
        clearTimeout(timer);
        this.#waiting.delete(look);
        resolve(result);
      };
      const look = () => condition() && finish(true);
      const timer = setTimeout(() => finish(condition()), patience);
      this.#waiting.add(look);
    });
  }
}
