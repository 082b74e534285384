// A server that is blocked cannot say so. So the page asks it for the least it can answer, again and again, and a
// question that is still open counts with its age.

const EVERY = 200;
const SLOW = 250;
const STUCK = 1000;

/**
 * @param {(beat: { wait: number, state: 'ok' | 'slow' | 'stuck' | 'gone' }) => void} onBeat called every 200 ms
 */
export function startPulse(onBeat) {
  let asked;
  let answered = 0;
  let gone = false;

  async function ask() {
    asked = performance.now();
    try {
      const response = await fetch('ping', { cache: 'no-store' });
      await response.text();
      gone = false;
    } catch {
      gone = true;
    }
    answered = performance.now() - asked;
    asked = undefined;
  }

  function beat() {
    const wait = asked === undefined ? answered : performance.now() - asked;
    onBeat({ wait, state: gone ? 'gone' : stateOf(wait) });
    // A hidden page is throttled by its browser and would measure that.
    if (asked === undefined && !document.hidden) ask();
  }

  ask();
  setInterval(beat, EVERY);
}

function stateOf(wait) {
  if (wait >= STUCK) return 'stuck';
  return wait >= SLOW ? 'slow' : 'ok';
}
