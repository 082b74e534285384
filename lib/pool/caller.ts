import path from 'node:path';
import { fileURLToPath } from 'node:url';

/** The file whose code called `callee`, and whether that code is in strict mode. */
export function callerOf(callee: (...args: never[]) => unknown): { file: string; strict: boolean } {
  const { prepareStackTrace, stackTraceLimit } = Error;
  const holder: { stack?: NodeJS.CallSite[] } = {};
  Error.prepareStackTrace = (_, sites) => sites;
  Error.stackTraceLimit = 10;
  Error.captureStackTrace(holder, callee);
  const { stack } = holder;
  Error.prepareStackTrace = prepareStackTrace;
  Error.stackTraceLimit = stackTraceLimit;
  // V8 shows no function of strict code.
  const strict = stack?.[0]?.getFunction() === undefined;
  const file = stack
    ?.map((site) => site.getFileName())
    .find((name) => name?.startsWith('file:') || path.isAbsolute(name ?? ''));
  // From the prompt, or from `node --eval`.
  if (file === undefined || file === null) return { file: path.join(process.cwd(), '[eval]'), strict };
  return { file: file.startsWith('file:') ? fileURLToPath(file) : file, strict };
}
