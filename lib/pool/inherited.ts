import { existsSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { invalid } from '../options';
import type { WorkerProcessOptions } from './worker-process';

/**
 * What workers take over of the way this process was started. They read the same code, so that its loaders are theirs.
 * They have no use for its debugger, nor for an agent that watches the app and takes seconds to load.
 */

/** A second inspector on the same port, a script instead of their own. */
const NOT_FOR_WORKERS = /^--?(inspect|debug|interactive$|i$|watch|test|e$|p$|pe$|eval\b|print\b|input-type)/;
const PRELOADS = /^(--import|--require|-r)$/;
const LOADERS = /tsx|ts-node|tsimp|swc|esbuild|babel|sucrase|jiti|oxc|typescript|tsconfig-paths|pnp|node-preload/;
const AGENTS =
  /opentelemetry|sentry|dd-trace|datadog|newrelic|elastic-apm|appdynamics|dynatrace|oneagent|instana|applicationinsights|splunk|honeycomb|skywalking|pyroscope|scout-apm|solarwinds-apm|contrast|js-debug|debugConnector/;

/** Who typed a flag into the command line meant this app; agents are the exception. */
export function inheritedFlags(): string[] {
  return pick(process.execArgv, (preload) => !AGENTS.test(nameOf(preload))).flat();
}

/** `NODE_OPTIONS` is for all programs of a machine: of what it preloads, workers need what reads code. */
export function environmentOf(env: NodeJS.ProcessEnv = process.env): NodeJS.ProcessEnv {
  const { NODE_OPTIONS: options } = env;
  // One of the pool's own is taken as it is.
  if (options === undefined || options !== process.env.NODE_OPTIONS) return env;
  const flags = pick(wordsOf(options), (preload) => LOADERS.test(nameOf(preload)));
  return { ...env, NODE_OPTIONS: flags.flat().join(' ') };
}

/** A package, and what of it; of the app's own files the last part alone, since folders are called anything. */
function nameOf(preload: string): string {
  const ofPackage = preload.split(/node_modules[\\/]/).at(-1) as string;
  const isFile = ofPackage === preload && /^"?(\.|\/|file:|[a-z]:)/i.test(preload);
  return isFile ? path.basename(preload) : ofPackage;
}

/** Splits where Node does: spaces within double quotes are part of a word. */
function wordsOf(options: string): string[] {
  return options.match(/("(\\.|[^"])*"|[^\s"])+/g) ?? [];
}

function pick(words: readonly string[], isWanted: (preload: string) => boolean): string[][] {
  return withValues(words).filter(([flag = '', ...values]) => {
    const [name = '', value = values.join(' ')] = flag.split(/=(.*)/s);
    return !NOT_FOR_WORKERS.test(name) && (!PRELOADS.test(name) || isWanted(value));
  });
}

/** What is no flag itself is the value of the one before. */
function withValues(words: readonly string[]): string[][] {
  const flags: string[][] = [];
  for (const word of words) {
    if (word.startsWith('-') || flags.length === 0) flags.push([word]);
    else flags.at(-1)?.push(word);
  }
  return flags;
}

const READS_TYPESCRIPT = /^(--import|--require|-r|--loader|--experimental-(loader|(strip|transform)-types))(=|$)/;

/** @throws TypeError `ERR_UNBLOCK_BAD_OPTION` for a module of TypeScript that nothing in the workers can read */
export function checkReadable(url: string, { env, execArgv }: WorkerProcessOptions): void {
  const file = fileURLToPath(url);
  const isThere = existsSync(file); // Under a loader, './tasks.js' stands for tasks.ts.
  if (isThere && !/\.([cm]?ts|[jt]sx)$/.test(file)) return;
  const readsByItself = (process.features as { typescript?: unknown }).typescript && isThere && /ts$/.test(file);
  const flags = [...execArgv, ...wordsOf(environmentOf(env).NODE_OPTIONS ?? '')];
  if (readsByItself || flags.some((flag) => READS_TYPESCRIPT.test(flag))) return;
  const loader = "with createPool({ execArgv: ['--import', 'tsx'] }) TypeScript";
  throw invalid(
    'offload.module',
    'url',
    `a module that workers can read: JavaScript, or ${loader}`,
    path.basename(file),
  );
}
