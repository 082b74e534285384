import { findSourceMap, type SourceMapping } from 'node:module';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Sample } from './main-thread';

/** The function that blocks, as its author knows it, and the way out. */
export interface Place {
  /** `compare (similar.js:40)` */
  readonly at: string;
  /** The same without what it was in the midst of. */
  readonly line: string;
  readonly advice: string;
  /** The same for all lines of one function. */
  readonly key: string;
  /** It waits in a `*Sync` call: that takes time, but no CPU time. */
  readonly waits: boolean;
  /** It is a function of the app, or of a library; else there is nothing that its author could do. */
  readonly known: boolean;
  /** As Node prints it. */
  readonly stack: string;
}

interface Frame {
  readonly name: string;
  readonly file: string;
  readonly line: number | null;
  readonly column: number | null;
  readonly from: 'app' | 'library' | 'node' | 'engine';
  /** It awaits the function that runs. */
  readonly awaits: boolean;
  /** Lines of the file that runs: where the function begins, and where it is now. */
  readonly begins: number | null;
  readonly runs: number | null;
}

const OURS = path.join(__dirname, '..') + path.sep;
const MODULES = /[\\/]node_modules[\\/]/;
const BODY_PARSERS = /[\\/]node_modules[\\/](body-parser|raw-body|co-body|multer|busboy|formidable)[\\/]/;
const EXPRESS_RESPONSE = /[\\/]express[^\\/]*[\\/]lib[\\/]response\.js$/;

/** Of an app that is itself installed, all files are below a `node_modules`. */
const INSTALLED_APP = /^.*[\\/]node_modules[\\/](@[^\\/]+[\\/])?[^\\/]+[\\/]/.exec(process.argv[1] ?? '')?.[0] ?? '';

export function placeOf({ sites, late }: Sample): Place {
  // The first frame is the inspector's own question.
  const all = sites.slice(1);
  const frames = (late && isAtEntry(all[0]) ? all.slice(1) : all).map(frameOf);
  const app = frames.findIndex(({ from }) => from === 'app');
  const above = app === -1 ? frames : frames.slice(0, app);
  const named = frames[app] ?? above.find(({ from }) => from === 'library') ?? above[0];
  const stack = frames.map((frame) => `    at ${frame.awaits ? 'async ' : ''}${show(frame, true)}`).join('\n');
  if (named === undefined)
    return { at: 'native code', line: '', advice: COMPUTING, key: '', waits: false, known: false, stack };
  const { within, advice, waits = false } = causeOf(frames, above, named, late);
  const shown = show({ ...named, name: nameWithin(frames.slice(frames.indexOf(named))) });
  return {
    at: within === undefined ? shown : `${shown}, ${within}`,
    line: shown,
    advice,
    key: `${named.name} ${named.file}:${named.begins}`,
    waits,
    known: named.from === 'app' || named.from === 'library',
    stack,
  };
}

const ANONYMOUS = '<anonymous>';

/** A callback without a name is known by the function that it is written in, which calls what calls it. */
function nameWithin([inner, ...outwards]: readonly Frame[]): string {
  const outer = outwards.find(({ from }) => from !== 'engine');
  if (inner?.name !== ANONYMOUS || outer?.file !== inner.file || outer.awaits) return inner?.name ?? ANONYMOUS;
  const below = Number(inner.begins) - Number(outer.runs);
  return Number(outer.begins) <= Number(inner.begins) && (below === 0 || below === 1)
    ? nameWithin([outer, ...outwards.slice(outwards.indexOf(outer) + 1)])
    : ANONYMOUS;
}

/**
 * An interrupt is served where the next function is entered after native code has returned: that function has not run
 * yet. V8 gives the place of its parameters then, behind `function` and its name, if it has these.
 */
function isAtEntry(site: NodeJS.CallSite | undefined): boolean {
  if (site === undefined || site.getLineNumber() !== site.getEnclosingLineNumber()) return false;
  const distance = Number(site.getColumnNumber()) - Number(site.getEnclosingColumnNumber());
  const name = site.getFunctionName()?.replace(/^.*[. ]/, '') ?? '';
  return ['', 'function', 'function ', `function ${name}`].some((text) =>
    [0, 'async '.length, '*'.length, 'async *'.length].includes(distance - text.length),
  );
}

interface Cause {
  /** What the named function was in the midst of. */
  readonly within?: string | undefined;
  readonly advice: string;
  readonly waits?: boolean;
}

const COMPUTING = 'wrap it with offload()';

/** @param above what the app's innermost function has called, from the innermost outwards */
function causeOf(frames: readonly Frame[], above: readonly Frame[], named: Frame, late: boolean): Cause {
  if (above.some(({ file }) => BODY_PARSERS.test(file))) {
    return { within: 'parsing the body', advice: 'limit the body with limitInput()' };
  }
  if (frames.some(({ file, awaits }) => !awaits && file.startsWith('node:internal/modules/'))) {
    return { within: 'loading a module', advice: 'load it when the app starts' };
  }
  const sync = above.findLast(
    ({ name, from }) => name.endsWith('Sync') && (from === 'node' || (late && from === 'library')),
  );
  if (sync !== undefined) {
    return { within: sync.name, advice: `use ${sync.name.slice(0, -'Sync'.length)}() instead`, waits: true };
  }
  const library = above.find(({ from }) => from === 'library');
  if (library !== undefined) {
    const sends = above.some(({ file }) => EXPRESS_RESPONSE.test(file));
    return {
      within: library === named ? undefined : `inside of ${show(library)}`,
      advice: sends ? 'send less of it, or make its text with offload()' : 'call it in a module, with offload.module()',
    };
  }
  if (late && above.length === 0) return { within: 'in native code just before', advice: COMPUTING };
  const builtIn = above.findLast(({ from }) => from === 'engine');
  return { within: builtIn && `inside of ${builtIn.name}`, advice: COMPUTING };
}

function frameOf(site: NodeJS.CallSite): Frame {
  const { file, line, column } = positionOf(site);
  const from = sourceOf(file);
  const name = from === 'engine' ? builtInOf(site, file) : nameOf(site);
  const lines = { begins: site.getEnclosingLineNumber(), runs: site.getLineNumber() };
  return { name, file, line, column, from, awaits: site.isAsync(), ...lines };
}

/** V8 names a function without a name by the path to it. */
function nameOf(site: NodeJS.CallSite): string {
  return (site.getFunctionName() ?? ANONYMOUS).replace(/^.*\.(?=\w)/, '');
}

function builtInOf(site: NodeJS.CallSite, file: string): string {
  return file === '' ? `${site.getTypeName()}.${nameOf(site)}` : 'WebAssembly';
}

interface Position {
  readonly file: string;
  readonly line: number | null;
  readonly column: number | null;
}

/** In the source as it was written, where Node has its source map. */
function positionOf(site: NodeJS.CallSite): Position {
  const script = site.getScriptNameOrSourceURL();
  // Code compiled by a template engine belongs to the place that compiled it.
  const [, origin] = /\((?!eval at )([^()]+):\d+:\d+\)/.exec(site.getEvalOrigin() ?? '') ?? [];
  const file = script || origin || '';
  const line = site.getLineNumber();
  const column = site.getColumnNumber();
  const map = line === null ? undefined : findSourceMap(file);
  const { originalSource, originalLine, originalColumn }: Partial<SourceMapping> =
    map?.findEntry(Number(line) - 1, Number(column) - 1) ?? {};
  if (originalSource === undefined) return { file: pathOf(file), line, column };
  return { file: pathOf(originalSource), line: Number(originalLine) + 1, column: Number(originalColumn) + 1 };
}

function pathOf(file: string): string {
  return file.startsWith('file:') ? fileURLToPath(file.replace(/[?#].*$/, '')) : file.replace(/\?.*$/, '');
}

function sourceOf(file: string): Frame['from'] {
  if (file.startsWith('node:')) return 'node';
  if (file === '' || file.startsWith('wasm:')) return 'engine';
  if (file.startsWith(OURS)) return 'library';
  return MODULES.test(file.startsWith(INSTALLED_APP) ? file.slice(INSTALLED_APP.length) : file) ? 'library' : 'app';
}

function show({ name, file, line, column }: Frame, whole = false): string {
  if (file === '') return name;
  if (whole) return `${name} (${file}:${line}:${column})`;
  const inModules = file.split(MODULES);
  return `${name} (${inModules.length > 1 ? inModules.at(-1) : withoutFolder(file)}:${line})`;
}

/** As people write it who work on the app. */
function withoutFolder(file: string): string {
  const folders = [process.cwd(), path.dirname(process.argv[1] ?? '')];
  const folder = folders.find((one) => file.startsWith(one + path.sep));
  return folder === undefined ? file : file.slice(folder.length + 1);
}
