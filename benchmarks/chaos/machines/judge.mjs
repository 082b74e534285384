import { PATIENT_MS } from './plan.mjs';

/** What a fault can do to calls is over so long after it. */
const AFTERMATH_MS = 9000;
/** A message between two processes of this machine, and a line in a file. */
const SLACK_MS = 200;
/** A pool that gave no sign for this long has no call begun: so long may it have been unable to take one back. */
const SIGN_LIFE_MS = 1000;
/** What is called stops within this time after its caller's death, or after it lost its Redis. */
const STOPPED_MS = 10_000;

/**
 * @param call what was made and how it ended: `spec`, `outcome`, `madeAt`, `endedAt`, `caller` (with `diedAt`)
 * @param traces what its task has left: `begins`, `ends`, `lastAt`
 * @param harm the times `{ from, to, caller? }` in which something was harmed, all or one caller's wire
 * @returns the breaches: `{ verdict, why }`
 */
export function judge(call, traces, harm, lag) {
  const breaches = [];
  const breach = (verdict, why) => breaches.push({ verdict, why });
  const { spec, outcome, caller } = call;
  const endedAt = call.endedAt ?? caller.diedAt;
  const slack = SLACK_MS + 2 * lag;
  const harmed = (from, to) => harm.some((one) => one.from < to && one.to + AFTERMATH_MS > from);

  if (endedAt === undefined) {
    breach('hung', 'it never ended');
    return breaches;
  }
  if (call.answers > 1) breach('duplicated', `it ended ${call.answers} times`);
  const most = spec.kind === 'again' ? 2 : 1;
  if (traces.begins.length > most) breach('duplicated', `it began ${traces.begins.length} times`);
  if (traces.begins.length > 1 && !harmed(call.madeAt, endedAt)) breach('duplicated', 'it was repeated without need');

  // One that is frozen tells late.
  const own = harm.filter((one) => one.caller === caller && one.from < endedAt && one.to > call.madeAt);
  const frozenMs = own.reduce((sum, { from, to }) => sum + to - from, 0);
  judgeOutcome(call, traces, harmed, slack + frozenMs, breach);

  // While its caller could not be heard, or nobody could, it could not be taken back.
  const deaf = harm.filter(
    (one) => (one.caller ?? caller) === caller && one.from < endedAt + slack && one.to > endedAt - slack,
  );
  const toldAt = Math.max(endedAt, ...deaf.map(({ to }) => to));
  const allowed = call.endedAt === undefined || deaf.length > 0 ? SIGN_LIFE_MS : 0;
  const late = traces.begins.filter((at) => at > toldAt + allowed + slack);
  if (late.length > 0) breach('afterwards', `it began ${late[0] - endedAt} ms after its caller was told`);
  if (traces.lastAt > endedAt + STOPPED_MS + slack)
    breach('hung', `it ran for ${traces.lastAt - endedAt} ms after its end`);
  if (outcome?.startsWith('wrong')) breach('wrong', outcome);
  return breaches;
}

function judgeOutcome({ spec, outcome, madeAt, endedAt }, traces, harmed, slack, breach) {
  if (outcome === undefined) return; // Its caller has died.
  const { kind, timeout } = spec;
  if (endedAt - madeAt > timeout + 1000 + slack)
    breach('hung', `it took ${endedAt - madeAt} ms, its limit was ${timeout}`);
  if (outcome === 'ok') {
    if (traces.ends.length === 0) breach('lost', 'it was answered, and did not run');
    if (kind === 'endless' || kind === 'fail' || kind === 'deadly') breach('wrong', `a call of ${kind} was answered`);
    return;
  }
  const expected = { left: ['left'], fail: ['E_FAILED'], deadly: ['ERR_UNBLOCK_WORKER_DIED'] }[kind] ?? [];
  if (expected.includes(outcome)) return;
  if (outcome === 'ERR_UNBLOCK_TIMEOUT') {
    if (endedAt - madeAt < timeout - 20) breach('wrong', `timed out after ${endedAt - madeAt} of ${timeout} ms`);
    if (timeout === PATIENT_MS && !harmed(madeAt, endedAt)) breach('lost', 'in calm, a patient call timed out');
    return;
  }
  const failures = ['ERR_UNBLOCK_UNREACHABLE', 'ERR_UNBLOCK_WORKER_DIED', 'ERR_UNBLOCK_QUEUE_FULL'];
  if (!failures.includes(outcome)) breach('wrong', `it ended in ${outcome}`);
  else if (!harmed(madeAt, endedAt)) breach('lost', `in calm, it ended in ${outcome}`);
  if (outcome === 'ERR_UNBLOCK_WORKER_DIED' && traces.ends.length > 0 && !harmed(madeAt, endedAt))
    breach('lost', 'it was done');
}
