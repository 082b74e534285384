import { createBlocked } from './blocked.mjs';
import { createChart } from './chart.mjs';
import { createForecast } from './forecast.mjs';
import { count, duration } from './format.mjs';
import { pairOf } from './pairs.mjs';
import { startPulse } from './pulse.mjs';
import { createRequests } from './requests.mjs';
import { createRun } from './run.mjs';
import { createText } from './text.mjs';

const HEALTH = { ok: 'Answering', slow: 'Slow', stuck: 'Stuck', gone: 'Not reachable' };
const POOL = {
  workers: 'Workers',
  busy: 'Busy',
  queued: 'Queued',
  completed: 'Completed',
  failed: 'Failed',
  cancelled: 'Cancelled',
  timedOut: 'Timed out',
  refused: 'Refused',
};
const AT_ONCE = 10;
/** The server reports four times a second; what is older than two reports says nothing about now. */
const FRESH = 600;

const $ = (id) => document.getElementById(id);
const form = $('form');
const text = await createText(form);
const chart = createChart($('chart'));
const forecast = createForecast($('forecast'));
const requests = createRequests($('rows'), showEnd);
const run = createRun($('run'), requests);
const blocked = createBlocked($('blocked'), offloadIt);
let delay;
let pool;

// What the server says of itself, and how long it takes to say anything.

const events = new EventSource('events');
const listen = (name, listener) => events.addEventListener(name, ({ data }) => listener(JSON.parse(data)));

listen('started', (event) => requests.started(event));
listen('progress', (event) => {
  requests.progressed(event);
  run.show(pool);
});
events.addEventListener('open', async () => {
  for (const one of await (await fetch('runs')).json()) forecast.add(one);
});
listen('blocked', blocked.show);
listen('run', (one) => forecast.add(one));
listen('state', (state) => {
  const at = performance.now();
  delay = { value: state.delay, at };
  pool = { ...state.pool, at };
  showPool();
  forecast.know(state.forecast);
  showForecast();
  run.show(pool);
});

startPulse(({ wait, state }) => {
  const fresh = delay !== undefined && performance.now() - delay.at < FRESH;
  chart.add({ ping: wait, delay: fresh ? delay.value : undefined, stuck: state === 'stuck' });
  showHealth(wait, state);
  requests.beat(wait);
  run.show(pool);
});

function showHealth(wait, state) {
  $('health').dataset.state = state;
  // A change is announced, not each measurement.
  if ($('health-state').textContent !== HEALTH[state]) $('health-state').textContent = HEALTH[state];
  const words = { ok: `in ${duration(wait)}`, slow: `in ${duration(wait)}`, stuck: `for ${duration(wait)}`, gone: '' };
  $('health-wait').textContent = words[state];
}

function showPool() {
  $('pool').replaceChildren(
    ...Object.entries(POOL).map(([name, label]) => {
      const entry = document.createElement('div');
      entry.innerHTML = `<dt>${label}</dt><dd>${count(pool[name])}</dd>`;
      entry.classList.toggle('active', pool[name] > 0 && (name === 'busy' || name === 'queued'));
      return entry;
    }),
  );
}

/** What the deadline and the text that are chosen let expect. */
function showForecast() {
  const { deadline, route } = form.elements;
  const size = text.value.length;
  const name = deadline.selectedOptions[0].textContent;
  forecast.ask({ size, deadlineMs: Number.parseInt(deadline.value, 10) * 1000 });
  const words = forecast.sentence({ size, deadline: deadline.value, name });
  for (const place of [$('forecast-note'), $('about-size')]) if (place.textContent !== words) place.textContent = words;
  $('about-size').hidden = route.value !== 'limited';
}

function showEnd(request) {
  const { title, route, outcome, note, ended, sent, result } = request;
  const took = duration(ended - sent);
  run.show(pool);
  $('announcement').textContent = `${title} on ${route}: ${outcome} ${note}, after ${took}`;
  if (result === undefined) return;
  $('results').hidden = false;
  $('results-note').textContent = `${title} on /${route}: ${count(result.compared)} pairs compared in ${took}`;
  $('pairs').replaceChildren(...result.pairs.map(pairOf));
}

// What the visitor does.

function send(times) {
  const { route, deadline } = form.elements;
  const request = { route: route.value, deadline: deadline.value, title: text.title, text: text.value };
  $('no-requests').hidden = true;
  $('rows').parentElement.hidden = false;
  for (let n = 0; n < times; n++) requests.send(request);
  run.show(pool);
  // Where the form stands above the rest, what it set off would be out of sight.
  if (matchMedia('(max-width: 1020px)').matches) $('run').scrollIntoView({ block: 'nearest' });
}

/** The same text again, on the route where the watch's advice was taken. */
function offloadIt() {
  form.querySelector('[value="offloaded"]').click();
  send(1);
}

form.addEventListener('change', ({ target }) => {
  showForecast();
  if (target.name !== 'route') return;
  $('deadline').disabled = target.value === 'blocking';
  $('about-deadline').hidden = target.value !== 'blocking';
});
form.addEventListener('submit', (event) => {
  event.preventDefault();
  send(1);
});
$('burst').addEventListener('click', () => send(AT_ONCE));
