import { percent } from './format.mjs';

/** A pair of sentences as a list item; the words that both have are marked. */
export function pairOf({ similarity, a, b }) {
  const item = document.createElement('li');
  item.innerHTML =
    '<p class="similarity"></p><div><p><span class="ordinal"></span> </p><p><span class="ordinal"></span> </p></div>';
  item.querySelector('.similarity').textContent = percent(similarity);
  const [first, second] = item.querySelectorAll('div p');
  fill(first, a, b);
  fill(second, b, a);
  return item;
}

function fill(element, sentence, other) {
  const shared = new Set(other.text.toLowerCase().match(/[\p{L}\p{N}]+/gu));
  element.firstChild.textContent = sentence.number;
  for (const part of sentence.text.split(/([\p{L}\p{N}]+)/u)) {
    if (part.length < 3 || !shared.has(part.toLowerCase())) {
      element.append(part);
      continue;
    }
    const mark = document.createElement('mark');
    mark.textContent = part;
    element.append(mark);
  }
}
