import { ALLOWANCE_MS, NEVER_MS } from './client.mjs';
import { DIED, endingOf, expected, expectedLate, usesPool } from './model.mjs';
import { MAX_QUEUE, PATIENT_MS } from './plan.mjs';

/** A stopped task may go on this long after its call was given up. */
const STOPPED_WITHIN_MS = 500;

/**
 * Judges one call by what its client saw, what the app saw and what was done to its worker.
 *
 * @returns breaches, each with a `verdict`: lost, duplicated, hung or wrong
 */
export function judge(spec, seen, report, faults, lag) {
  const breaches = [];
  const breach = (verdict, why) => breaches.push({ verdict, why });
  const label = labelOf(spec, seen);
  const left = seen.leftAt !== undefined;

  if (seen.hung && seen.answer === undefined) breach('hung', `no answer within ${NEVER_MS} ms`);
  else if (label.startsWith('malformed')) breach('wrong', label);
  else if (label === CLOSED && report.requests > 0) breach('lost', 'the app got it, and its connection was closed');
  else if (label === 'none' && !left) breach('lost', `the connection ended without an answer: ${seen.ended}`);
  else if (label !== 'none' && label !== CLOSED && !isAllowed(label, spec, seen, report, faults)) {
    breach('wrong', `answered ${label}, expected ${expected(spec).join(' or ')}`);
  }
  if (
    seen.answer !== undefined &&
    !isUnfinished(label, spec, seen) &&
    seen.answer.headers['x-id'] !== String(spec.index)
  ) {
    breach('wrong', `answered with the head of call ${seen.answer.headers['x-id']}`);
  }
  if (seen.answeredAt - seen.sentAt > limitOf(spec, report) + ALLOWANCE_MS + lag) {
    breach('hung', `answered ${seen.answeredAt - seen.sentAt} ms after it was sent`);
  }
  judgeConnection(spec, seen, breach);
  judgeWork(spec, seen, report, label, breach);
  return breaches;
}

/**
 * A request that is read in one with the end of a refused body is dropped with its connection: the server cannot know
 * whether it was written before the refusal, and then in what belief.
 */
const CLOSED = 'closed after a refused body';

function isRefusal(status) {
  return status === 413 || status === 408;
}

/** An answer by its outcome; 'ok' only when the result is this call's own. */
export function labelOf(spec, { answer, ended, leftAt, statusBefore }) {
  if (answer === undefined) {
    if (ended === undefined) return 'none';
    if (ended.startsWith('malformed') || ended.startsWith('HPE')) return `malformed: ${ended}`;
    if (spec.task === 'cut' && leftAt === undefined) return 'cut off';
    return isRefusal(statusBefore) ? CLOSED : 'none';
  }
  if (answer.status === 204 && answer.body === '') return '204';
  let body;
  try {
    body = JSON.parse(answer.body);
  } catch {
    return `${answer.status}`;
  }
  if (answer.status !== 200) return [answer.status, body.code].filter(Boolean).join(' ');
  const right = body.id === spec.index && body.proof === [...spec.nonce].reverse().join('');
  return right ? 'ok' : `200 with ${answer.body.trim().slice(0, 100)}`;
}

function isAllowed(label, spec, seen, report, faults) {
  if (expected(spec).includes(label) || isUnfinished(label, spec, seen)) return true;
  const end = seen.answeredAt ?? seen.endedAt;
  if (expectedLate(spec).includes(label) && end - seen.sentAt >= limitOf(spec, report) - 2) {
    const patient = spec.deadline >= PATIENT_MS && spec.upload.how !== 'stalled';
    return !patient || spec.task === 'memory' || spec.task === 'disconnect';
  }
  if (!usesPool(spec)) return false;
  if (label === DIED) return faults.explainDeath(report.calls, seen);
  if (label === '503 ERR_UNBLOCK_QUEUE_FULL') return report.calls.some(({ beside }) => beside >= MAX_QUEUE);
  return false;
}

/** Node's own answer to a request that ends in its middle; the app never hears of it, or no more. */
function isUnfinished(label, { leave }, { leftAt }) {
  return leftAt !== undefined && label === '400' && (leave.stage === 'head' || leave.stage === 'body');
}

/** The earliest that its time can be up: a handler that never ran, its upload being slow, has extended nothing. */
function limitOf({ deadline, task }, { ran }) {
  if (task === 'silent') return deadline + 1000;
  return task === 'extend' && ran > 0 ? deadline + 2500 : deadline;
}

function judgeConnection(spec, seen, breach) {
  const { answer, pong, extra, continued, rest, ended } = seen;
  if (extra > 0) breach('duplicated', `${extra} answers too many`);
  if (rest !== '' && answer !== undefined) breach('duplicated', `bytes after the answer: ${JSON.stringify(rest)}`);
  if (seen.expectsPong && pong === undefined) {
    const abandoned = isRefusal(answer?.status);
    const announced = answer === undefined || answer.headers.connection === 'close' || spec.task === 'cut';
    if (!abandoned && !announced) breach('lost', `the next request on its connection was not answered: ${ended}`);
  }
  if (pong !== undefined && (pong.status !== 200 || pong.body !== `{"id":"${spec.index}p"}`)) {
    breach('wrong', `the next request on its connection got ${pong.status} ${pong.body}`);
  }
  const expects = spec.upload.how === 'expect';
  if (continued > (expects && !spec.refused ? 1 : 0)) breach('wrong', `told ${continued} times to continue`);
  if (expects && !spec.refused && answer?.status === 200 && continued === 0) breach('wrong', 'never told to continue');
}

function judgeWork(spec, seen, report, label, breach) {
  const { requests, ran, calls } = report;
  if (requests > 1 || ran > 1) breach('duplicated', `handled ${requests} times`);
  if (seen.answer !== undefined && requests === 0 && !isUnfinished(label, spec, seen))
    breach('wrong', 'answered by nobody');
  if (ran > 0 && (spec.refused || spec.upload.how === 'stalled' || spec.upload.how === 'malformed')) {
    breach('wrong', 'its handler ran');
  }
  if (calls.length > (spec.task === 'fan' ? 3 : 1)) breach('duplicated', `${calls.length} offloaded calls`);
  for (const { task, outcome, error } of calls) {
    if (outcome === undefined) breach('hung', `its ${task} is not settled`);
    if (seen.answer === undefined || spec.task === 'fan') continue;
    const ending = endingOf(label);
    if (ending !== undefined && outcome !== ending) breach('wrong', `answered ${label}, counted ${outcome} (${error})`);
  }
}

/** Whether a trace that a task left says that it went on for too long. */
export function outlived(stoppedAt, at, lag) {
  return at > stoppedAt + STOPPED_WITHIN_MS + lag;
}
