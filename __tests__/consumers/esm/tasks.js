import { progress } from 'express-unblock/worker';

export function count(text) {
  progress('counted');
  return { words: text.split(' ').length, pid: process.pid };
}
