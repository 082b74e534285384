import { readFileSync } from 'node:fs';
import { splitSentences } from '../similarity.mjs';
import { chronicle } from './chronicle.mjs';

export const texts = [
  { id: 'short', title: 'Short', text: readFileSync(new URL('short.txt', import.meta.url), 'utf8') },
  { id: 'medium', title: 'Medium', text: chronicle(300) },
  { id: 'long', title: 'Long', text: chronicle(3000) },
].map((each) => ({ ...each, sentences: splitSentences(each.text).length }));
