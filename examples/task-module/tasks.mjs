// Runs in the worker processes, which import it once and keep it warm. An ordinary module: it has imports, private
// functions and state, and can be tested without a worker.
import { progress } from 'express-unblock/worker';
import { stopWords } from './stop-words.mjs';

const words = new Intl.Segmenter('en', { granularity: 'word' });
const sentences = new Intl.Segmenter('en', { granularity: 'sentence' });

/** The sentences that hold the most of what the text keeps talking about, in their own order. */
export function summarize(text, count = 3) {
  const all = [...sentences.segment(text)].map(({ segment }) => segment.trim()).filter(Boolean);
  const wordsOf = all.map((sentence, index) => {
    if (index % 100 === 0) progress({ done: index, of: all.length });
    return contentWords(sentence);
  });
  const frequency = countAll(wordsOf.flat());
  const weigh = (list) => list.reduce((sum, word) => sum + frequency.get(word), 0) / Math.max(list.length, 5);
  return all
    .map((sentence, index) => ({ sentence, index, weight: weigh(wordsOf[index]) }))
    .sort((a, b) => b.weight - a.weight)
    .slice(0, count)
    .sort((a, b) => a.index - b.index)
    .map(({ sentence }) => sentence);
}

/** How often each word occurs. A `Map` arrives as a `Map`. */
export function wordFrequency(text) {
  return countAll(contentWords(text));
}

function contentWords(text) {
  return [...words.segment(text.toLowerCase())]
    .filter(({ segment, isWordLike }) => isWordLike && !stopWords.has(segment))
    .map(({ segment }) => segment);
}

function countAll(list) {
  const counts = new Map();
  for (const word of list) counts.set(word, (counts.get(word) ?? 0) + 1);
  return counts;
}
