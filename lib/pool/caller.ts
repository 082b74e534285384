import { readFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

/** A file, and whether the code in it that made a call is in strict mode. */
export interface Caller {
  readonly file: string;
  readonly strict: boolean;
}

export function callerOf(callee: (...args: never[]) => unknown): Caller {
  const { prepareStackTrace, stackTraceLimit } = Error;
  const holder: { stack?: NodeJS.CallSite[] } = {};
  Error.prepareStackTrace = (_, sites) => sites;
  Error.stackTraceLimit = 10;
  Error.captureStackTrace(holder, callee);
  const { stack } = holder;
  Error.prepareStackTrace = prepareStackTrace;
  Error.stackTraceLimit = stackTraceLimit;
  // V8 hides the functions of strict code.
  const strict = stack?.[0]?.getFunction() === undefined;
  const file = stack
    ?.map((site) => site.getFileName())
    .find((name) => name?.startsWith('file:') || path.isAbsolute(name ?? ''));
  // From the prompt, or from `node --eval`.
  if (file === undefined || file === null) return { file: path.join(process.cwd(), '[eval]'), strict };
  return { file: file.startsWith('file:') ? fileURLToPath(file) : file, strict };
}

/** The line of its file at which a function's text begins, for stack traces; 1 if unknown, as in compiled code. */
export function lineOf(source: string, file: string): number {
  let text: string;
  try {
    text = readFileSync(file, 'utf8');
  } catch {
    return 1;
  }
  const at = text.indexOf(source);
  return at === text.lastIndexOf(source) ? text.slice(0, Math.max(0, at)).split('\n').length : 1;
}
