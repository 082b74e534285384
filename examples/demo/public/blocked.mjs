import { duration } from './format.mjs';

/**
 * What the server's watch has said of whatever held its event loop last.
 *
 * @param {HTMLElement} section
 * @param {() => void} onCure
 */
export function createBlocked(section, onCure) {
  const [place, cure] = section.querySelectorAll('p');
  const button = section.querySelector('button');
  button.addEventListener('click', onCure);

  return {
    /** @param {{ route?: string, ms: number, at: string, advice: string }} event */
    show({ route, ms, at, advice }) {
      const code = document.createElement('code');
      code.textContent = at;
      place.replaceChildren(
        `${route ?? 'Something outside of a request'} held the event loop for ${duration(ms)} in `,
        code,
      );
      cure.textContent = `The cure: ${advice}.`;
      button.hidden = route !== 'POST /blocking';
      section.hidden = false;
    },
  };
}
