/** Predicts what a call may end in, from its plan alone: `<status> <code>`, or 'ok' for the right result. */

const DIED = '500 ERR_UNBLOCK_WORKER_DIED';
const TIMED_OUT = '504 ERR_UNBLOCK_TIMEOUT';
const UPLOAD_TIMED_OUT = '408 ERR_UNBLOCK_UPLOAD_TIMEOUT';
const TOO_LARGE = '413 ERR_UNBLOCK_TOO_LARGE';
const NOT_SERIALIZABLE = '500 ERR_UNBLOCK_NOT_SERIALIZABLE';

/** What is thrown and says nothing of a status is a 500. */
const THROWN_STATUS = { instance: ['422'], coded: ['409 E_TAKEN'] };

const OUTCOMES = {
  fling: ({ variant }) => THROWN_STATUS[variant] ?? ['500', NOT_SERIALIZABLE],
  unclonableResult: ({ variant }) => (variant === 'getter' ? ['500', NOT_SERIALIZABLE] : [NOT_SERIALIZABLE]),
  unclonableArgument: () => [NOT_SERIALIZABLE],
  recurse: () => ['500'],
  ownTimeout: () => [TIMED_OUT],
  ownSignal: () => ['500'],
  endless: () => [TIMED_OUT],
  deadly: () => [DIED],
  imported: ({ task }) => ({ throws: ['418'], exits: [DIED] })[task] ?? ['ok'],
  nothing: ({ handler }) => [handler ? '204' : 'ok'],
  local: ({ task, ms, deadline }) =>
    ({
      later: ['ok'],
      mute: [TIMED_OUT],
      silent: ['504'],
      // Express answers what it throws in time.
      throwsLate: ['418'],
      stream: ['ok'],
      cut: ms > deadline ? ['cut off'] : ['ok'],
      extend: ['ok'],
    })[task],
};

/** What a call may end in if nothing outside of it interferes. */
export function expected(spec) {
  if (spec.refused) return [TOO_LARGE];
  if (spec.upload.how === 'malformed') return ['400'];
  if (spec.upload.how === 'stalled') return [UPLOAD_TIMED_OUT];
  return OUTCOMES[spec.kind]?.(spec) ?? ['ok'];
}

/** What it may end in once its deadline has passed. */
export function expectedLate(spec) {
  if (spec.task === 'silent') return ['504'];
  if (spec.task === 'cut') return ['cut off', TIMED_OUT, UPLOAD_TIMED_OUT];
  return [TIMED_OUT, UPLOAD_TIMED_OUT];
}

export function usesPool({ kind }) {
  return kind !== 'local' && kind !== 'unclonableArgument';
}

/** How the pool has to count a call that was answered so. */
export function endingOf(label) {
  return (
    {
      ok: 'completed',
      204: 'completed',
      [DIED]: 'died',
      '503 ERR_UNBLOCK_QUEUE_FULL': 'refused',
    }[label] ?? undefined
  );
}

export { DIED };
