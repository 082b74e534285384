import { count, percent } from './format.mjs';

/** The comparison under way, of several the oldest that is running; without any, the last that ended. */
export function createRun(section, requests) {
  const label = section.querySelector('label');
  const bar = section.querySelector('progress');
  const note = section.querySelector('[role="status"]');
  const cancel = section.querySelector('button');
  cancel.addEventListener('click', () => requests.cancel());

  return {
    /** @param {{ busy: number, at: number } | undefined} pool what the server said last of its pool, and when */
    show(pool) {
      const inFlight = requests.inFlight();
      const request = inFlight.find(({ state }) => state === 'running') ?? inFlight[0] ?? requests.latest();
      cancel.disabled = inFlight.length === 0;
      cancel.textContent = inFlight.length > 1 ? `Cancel all ${inFlight.length}` : 'Cancel';
      if (!request) return;

      const { outcome, progress } = request;
      const fraction = outcome === '200' ? 1 : progress;
      bar.classList.toggle('halted', request.state === 'done' && outcome !== '200');
      // Without a value the bar moves on its own: something is done, and nobody knows how much of it.
      if (fraction === undefined && outcome === undefined) bar.removeAttribute('value');
      else bar.value = fraction ?? 0;

      label.textContent = `${request.title} on /${request.route}: ${stateOf(request)}`;
      // Announced when it changes, and not each time it is looked at.
      const words = noteOn(request, pool);
      if (note.textContent !== words) note.textContent = words;
    },
  };
}

function stateOf({ outcome, progress, compared, state }) {
  const at = progress === undefined ? '' : ` at ${percent(progress)}`;
  if (outcome === '200') return 'done';
  if (outcome === 'cancelled') return `cancelled${at}`;
  if (outcome !== undefined) return `ended with ${outcome}${at}`;
  return progress === undefined ? state : `${percent(progress)} of ${count(compared)} pairs`;
}

function noteOn({ route, state, outcome, ended }, pool) {
  if (route === 'blocking') {
    if (state !== 'done') return 'No progress to show: the thread that would send it is busy.';
    return outcome === 'cancelled' ? 'Cancelled on this page only. The server computes on until it is done.' : '';
  }
  const stopped = pool?.busy === 0 && pool.at > ended;
  return stopped && (outcome === 'cancelled' || outcome === '504') ? 'The work has stopped: no worker is busy.' : '';
}
