import { progress } from 'express-unblock/worker';

export interface Statistics {
  readonly words: number;
  readonly longest: string;
}

export function statistics(text: string): Statistics {
  const words = text.split(/\s+/).filter((word) => word !== '');
  let longest = '';
  for (const [index, word] of words.entries()) {
    if (word.length > longest.length) longest = word;
    if (index % 100_000 === 0) progress(index / words.length);
  }
  return { words: words.length, longest };
}
