// The slow work of this demo: which sentences of a text say nearly the same? Every sentence is compared with every
// other, so twice the text takes four times as long. It knows nothing of HTTP, of pools or of where it runs.
import { progress } from 'express-unblock/worker';

const sentencesOf = new Intl.Segmenter('en', { granularity: 'sentence' });
const ABBREVIATION = /(?:^|[\s("'“‘])(?:Mrs?|Ms|Dr|Prof|St|vs|e\.g|i\.e|\p{Lu})\.\s*$/u;

/**
 * Splits prose into sentences. Lines wrapped inside a paragraph belong together, an empty line ends a sentence, and
 * what the segmenter cut after an abbreviation or an initial ("Dr. ", "J. ") is put together again.
 *
 * @param {string} text
 * @returns {string[]}
 */
export function splitSentences(text) {
  const sentences = [];
  for (const paragraph of text.split(/\r?\n\s*\n/)) {
    let sentence = '';
    for (const { segment } of sentencesOf.segment(paragraph.replace(/\s+/g, ' '))) {
      sentence += segment;
      if (ABBREVIATION.test(segment)) continue;
      sentences.push(sentence.trim());
      sentence = '';
    }
    sentences.push(sentence.trim());
  }
  return sentences.filter((sentence) => /[\p{L}\p{N}]/u.test(sentence));
}

/**
 * Finds the most similar pairs of sentences, the most similar first. The measure is the cosine between their vectors
 * of letter trigrams: 1 for the same words in whatever order, 0 for nothing in common.
 *
 * @param {string} text
 * @param {number} [top] how many pairs to return
 */
export function findSimilar(text, top = 10) {
  const sentences = splitSentences(text);
  const vectors = vectorsOf(sentences);
  const compared = (sentences.length ** 2 - sentences.length) / 2;
  const pairs = [];
  let done = 0;
  let reported = -1;

  for (let a = 0; a < sentences.length; a++) {
    const percent = Math.floor((100 * done) / compared);
    if (percent > reported) {
      reported = percent;
      progress({ done, compared });
    }
    for (let b = a + 1; b < sentences.length; b++) {
      const similarity = cosine(vectors[a], vectors[b]);
      if (pairs.length === top && similarity <= pairs[top - 1].similarity) continue;
      const rank = pairs.findIndex((pair) => pair.similarity < similarity);
      pairs.splice(rank < 0 ? pairs.length : rank, 0, { similarity, a, b });
      pairs.length = Math.min(pairs.length, top);
    }
    done += sentences.length - 1 - a;
  }

  return {
    sentences: sentences.length,
    compared,
    pairs: pairs.map(({ similarity, a, b }) => ({
      similarity,
      a: { number: a + 1, text: sentences[a] },
      b: { number: b + 1, text: sentences[b] },
    })),
  };
}

/** One vector of length 1 for each sentence: its trigrams in ascending order, the rarer in the text the heavier. */
function vectorsOf(sentences) {
  const ids = new Map();
  const counts = sentences.map((sentence) => {
    const count = new Map();
    for (const trigram of trigramsOf(sentence)) {
      if (!ids.has(trigram)) ids.set(trigram, ids.size);
      const id = ids.get(trigram);
      count.set(id, (count.get(id) ?? 0) + 1);
    }
    return count;
  });

  const spread = new Uint32Array(ids.size);
  for (const count of counts) for (const id of count.keys()) spread[id]++;

  return counts.map((count) => {
    const trigrams = Uint32Array.from(count.keys()).sort();
    const weights = Float64Array.from(trigrams, (id) => count.get(id) * Math.log(1 + sentences.length / spread[id]));
    const length = Math.sqrt(weights.reduce((sum, weight) => sum + weight * weight, 0));
    return { trigrams, weights: weights.map((weight) => weight / length) };
  });
}

/** Three letters at a time, words padded, so that their beginnings weigh more: "Hats" is " h", " ha", "hat", "ats", "ts ". */
function* trigramsOf(sentence) {
  for (const [word] of sentence.toLowerCase().matchAll(/[\p{L}\p{N}]+/gu)) {
    const padded = `  ${word} `;
    for (let i = 0; i + 3 <= padded.length; i++) yield padded.slice(i, i + 3);
  }
}

function cosine(a, b) {
  let sum = 0;
  for (let i = 0, j = 0; i < a.trigrams.length && j < b.trigrams.length; ) {
    const difference = a.trigrams[i] - b.trigrams[j];
    if (difference === 0) sum += a.weights[i] * b.weights[j];
    if (difference <= 0) i++;
    if (difference >= 0) j++;
  }
  return sum;
}
