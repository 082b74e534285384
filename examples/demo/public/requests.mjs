import { count, duration, percent, size } from './format.mjs';

const MEANING = {
  200: 'Answered',
  408: 'Upload too slow',
  413: 'Too large',
  499: 'Client left',
  500: 'Failed',
  503: 'No room to wait',
  504: 'Deadline passed',
};
const KEPT = 40;

/**
 * Sends texts to the server and keeps what became of each, in a table with the latest on top.
 *
 * @param {HTMLTableSectionElement} rows
 * @param {(request: object) => void} onEnd
 */
export function createRequests(rows, onEnd) {
  /** The page may be open twice, and the server's events go to everybody. */
  const page = Math.random().toString(36).slice(2);
  const requests = [];

  async function send({ route, deadline, title, text }) {
    const body = new Blob([text], { type: 'text/plain' });
    const request = {
      id: `${page}-${requests.length + 1}`,
      route,
      title,
      bytes: body.size,
      state: 'waiting',
      sent: performance.now(),
      slowest: 0,
      abort: new AbortController(),
    };
    request.row = createRow(request);
    requests.push(request);
    rows.prepend(request.row);
    while (rows.rows.length > KEPT && rows.lastElementChild.dataset.state === 'done') rows.lastElementChild.remove();
    show(request);

    const query = new URLSearchParams({ run: request.id, ...(route === 'blocking' ? {} : { deadline }) });
    try {
      const response = await fetch(`${route}?${query}`, { method: 'POST', body, signal: request.abort.signal });
      const answer = await response.json();
      request.outcome = String(response.status);
      if (response.ok) request.result = answer;
      request.note = noteOn(response, answer);
    } catch {
      request.outcome = request.abort.signal.aborted ? 'cancelled' : 'failed';
      request.note = noteOnBroken(request);
    }
    request.ended = performance.now();
    request.state = 'done';
    show(request);
    onEnd(request);
  }

  return {
    send,

    /** Those without an answer yet, the oldest first. */
    inFlight() {
      return requests.filter(({ state }) => state !== 'done');
    },

    latest() {
      return requests.at(-1);
    },

    cancel() {
      for (const { abort } of this.inFlight()) abort.abort();
    },

    /** What is offloaded may have to wait first; what is not is under way at once. */
    started({ run }) {
      const request = this.inFlight().find(({ id }) => id === run);
      if (request?.route === 'blocking') request.state = 'running';
    },

    progressed({ run, done, compared }) {
      const request = this.inFlight().find(({ id }) => id === run);
      if (request) Object.assign(request, { state: 'running', compared, progress: compared ? done / compared : 1 });
    },

    /** How long everybody else had to wait meanwhile. */
    beat(wait) {
      for (const request of this.inFlight()) {
        request.slowest = Math.max(request.slowest, wait);
        show(request);
      }
    },
  };
}

function noteOn(response, answer) {
  if (response.ok) return `${count(answer.pairs.length)} pairs of ${count(answer.sentences)} sentences`;
  if (answer.code === 'ERR_UNBLOCK_TOO_SLOW') {
    const less = answer.manages ? `; about ${count(answer.manages)} would not` : '';
    return `${count(answer.size)} characters would take longer than ${duration(answer.limit)}${less}`;
  }
  const retryAfter = response.headers.get('Retry-After');
  if (retryAfter) return `try again in ${retryAfter} s`;
  if (answer.measure === 'bytes') return `${size(answer.expected ?? answer.received)}, limit ${size(answer.limit)}`;
  if (answer.measure === 'input') return `${count(answer.received)} characters, limit ${count(answer.limit)}`;
  return answer.code ?? answer.detail ?? '';
}

function noteOnBroken({ outcome, route, progress }) {
  if (outcome === 'failed') return 'the server could not be reached';
  if (route === 'blocking') return 'here; the server computes on';
  return progress === undefined ? 'before it began' : `at ${percent(progress)}`;
}

function createRow({ route, title, bytes }) {
  const row = document.createElement('tr');
  row.innerHTML = `
    <th scope="row"><code class="to"></code><small class="note"></small></th>
    <td><span class="badge"></span><small class="note"></small></td>
    <td class="number time"></td>
    <td class="number slowest"></td>`;
  row.querySelector('code').textContent = `/${route}`;
  row.querySelector('th small').textContent = `${title}, ${size(bytes)}`;
  return row;
}

function show({ row, state, outcome, progress, note, sent, ended, slowest }) {
  const [badge, small] = row.cells[1].children;
  row.dataset.state = state;
  row.dataset.outcome = outcome ?? state;
  badge.textContent = outcome ?? (progress === undefined ? state : `running ${percent(progress)}`);
  small.textContent = [MEANING[outcome], note].filter(Boolean).join(': ');
  row.cells[2].textContent = duration((ended ?? performance.now()) - sent);
  row.cells[3].textContent = slowest ? duration(slowest) : '–';
  row.cells[3].classList.toggle('alarming', slowest >= 1000);
}
