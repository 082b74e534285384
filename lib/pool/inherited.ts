import { existsSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { invalid } from '../options';
import type { WorkerProcessOptions } from './worker-process';

/**
 * The Node flags and environment that workers inherit from this process. They read the same code, and need the same
 * loaders. They need neither its debugger nor a monitoring agent, which may take seconds to load.
 */

/** A second inspector could not use the same port, and `--eval` and the like run another script. */
const NOT_FOR_WORKERS = /^--?(inspect|debug|interactive$|i$|watch|test|e$|p$|pe$|eval\b|print\b|input-type)/;
const PRELOADS = /^(--import|--require|-r)$/;
const LOADERS = /tsx|ts-node|tsimp|swc|esbuild|babel|sucrase|jiti|oxc|typescript|tsconfig-paths|pnp|node-preload/;
const AGENTS =
  /opentelemetry|sentry|dd-trace|datadog|newrelic|elastic-apm|appdynamics|dynatrace|oneagent|instana|applicationinsights|splunk|honeycomb|skywalking|pyroscope|scout-apm|solarwinds-apm|contrast|js-debug|debugConnector/;

/** Flags of the command line are meant for this app and its workers, except for agents. */
export function inheritedFlags(): string[] {
  return pick(process.execArgv, (preload) => !AGENTS.test(nameOf(preload))).flat();
}

/** `NODE_OPTIONS` applies to all programs: of the modules that it preloads, workers need the loaders of code. */
export function environmentOf(env: NodeJS.ProcessEnv = process.env): NodeJS.ProcessEnv {
  const { NODE_OPTIONS: options } = env;
  // A `NODE_OPTIONS` given to the pool is taken as it is.
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

/** A word that is no flag is the value of the flag before it. */
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
