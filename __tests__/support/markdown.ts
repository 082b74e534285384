import { once } from 'node:events';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  realpathSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import http from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import { transformSync } from 'esbuild';
import { type AppProcess, Client, startApp } from './app-process';

export const ROOT = path.join(__dirname, '..', '..');

export interface Block {
  /** The heading it stands under, without the parameters, and its number there. */
  readonly name: string;
  readonly language: string;
  readonly code: string;
}

/** A page for people, as a test sees it. */
export class Page {
  readonly file: string;
  readonly text: string;
  readonly blocks: readonly Block[];

  constructor(file: string) {
    this.file = file;
    this.text = readFileSync(path.join(ROOT, file), 'utf8');
    this.blocks = blocksOf(this.text);
  }

  block(name: string): Block {
    const found = this.blocks.find((block) => block.name === name);
    if (found === undefined) throw new Error(`${this.file} has no code block "${name}"`);
    return found;
  }

  /** The places that others can link to. */
  get anchors(): string[] {
    const headings = [...this.#prose.matchAll(/^#+ (.*)$/gm)].map(([, heading = '']) => heading);
    return headings.map(
      (heading) =>
        `#${heading
          .toLowerCase()
          .replace(/[^\w -]/g, '')
          .replaceAll(' ', '-')}`,
    );
  }

  get links(): string[] {
    return [...this.#prose.matchAll(/\]\(([^)\s]+)\)/g)].map(([, target = '']) => target);
  }

  /** Without code, which may have brackets and hashes of its own. */
  get #prose(): string {
    return this.text.replace(/^```.*?^```$/gms, '').replace(/`[^`\n]*`/g, (code) => code.replace(/[[\]()]/g, ''));
  }
}

function blocksOf(markdown: string): Block[] {
  return sectionsOf(markdown).flatMap((section) => {
    const heading = /^[^(\n]*/.exec(section)?.[0].trim();
    return [...section.matchAll(/^```(\w*)\n(.*?)^```$/gms)].map(([, language = '', code = ''], index) => ({
      name: `${heading} ${index + 1}`,
      language,
      code,
    }));
  });
}

/** Split where a heading begins; a line of code that begins with a hash is none. */
function sectionsOf(markdown: string): string[] {
  const sections = [''];
  let inCode = false;
  for (const line of markdown.split('\n')) {
    if (line.startsWith('```')) inCode = !inCode;
    const heading = inCode ? undefined : /^#+ (.*)$/.exec(line)?.[1];
    if (heading === undefined) sections[sections.length - 1] += `${line}\n`;
    else sections.push(`${heading}\n`);
  }
  return sections;
}

/** Links of a page that lead nowhere. */
export function deadLinks(page: Page): string[] {
  return page.links.filter((target) => {
    if (/^(https?|mailto):/.test(target)) return false;
    const [file = '', anchor] = target.split('#');
    const to = file === '' ? page.file : path.join(path.dirname(page.file), file);
    if (!existsSync(path.join(ROOT, to))) return true;
    return anchor !== undefined && !new Page(to).anchors.includes(`#${anchor}`);
  });
}

/** What the reader of a page has by then: the imports of its first example, and an app. */
const PRELUDE = `
import express from 'express';
import {
  closePools, createPool, currentDeadline, limitInput, offload, problemDetails, timeout,
} from 'express-unblock';
const app = express();
`;

/** Blocks are run as they stand, port and all: only the listening is led to a free port, and the port is told. */
const FREE_PORT = `
import net from 'node:net';
const { listen } = net.Server.prototype;
net.Server.prototype.listen = function (port, ...rest) {
  this.once('listening', () => console.log('http://localhost:' + this.address().port));
  return listen.call(this, 0, ...rest);
};
`;

/** A folder as the reader of a page has it, in which the page's code runs. */
export class ReadersFolder {
  readonly folder = realpathSync(mkdtempSync(path.join(tmpdir(), 'reader-')));
  readonly #apps: AppProcess[] = [];
  readonly #clients: Client[] = [];

  constructor(packages: readonly string[] = []) {
    this.write('package.json', '{ "type": "module" }');
    this.write('free-port.js', FREE_PORT);
    mkdirSync(path.join(this.folder, 'node_modules'));
    this.#link(ROOT, 'express-unblock');
    for (const name of ['express', 'express4', 'http-errors', '@types', ...packages]) {
      this.#link(path.join(ROOT, 'node_modules', name), name);
    }
  }

  #link(target: string, name: string): void {
    symlinkSync(realpathSync(target), path.join(this.folder, 'node_modules', name));
  }

  write(name: string, text: string): string {
    const file = path.join(this.folder, name);
    writeFileSync(file, text);
    return file;
  }

  /** A whole program as it stands, a part of one with what comes before and after it. */
  programOf({ code }: Pick<Block, 'code'>, beside = ''): string {
    if (/= express\(\)/.test(code)) return [code, beside].join('\n');
    return [PRELUDE, code, beside, /\b(app|server)\.listen\(/.test(code) ? '' : 'app.listen(3000);'].join('\n');
  }

  /** Runs a block, or code that stands for one. */
  async run(
    block: Pick<Block, 'code'> & { language?: string },
    { beside, env }: { beside?: string; env?: NodeJS.ProcessEnv } = {},
  ) {
    const program = this.programOf(block, beside);
    const text = block.language === 'ts' ? transformSync(program, { loader: 'ts' }).code : program;
    const app = await this.start(this.write('app.js', text), env);
    return { app, client: this.connect(app) };
  }

  async start(file: string, env?: NodeJS.ProcessEnv): Promise<AppProcess> {
    const hook = pathToFileURL(path.join(this.folder, 'free-port.js')).href;
    const app = await startApp(file, ['--import', hook], env);
    this.#apps.push(app);
    return app;
  }

  connect({ url }: AppProcess): Client {
    const client = new Client(url);
    this.#clients.push(client);
    return client;
  }

  /** For `afterEach`: nothing is left running. */
  async stop(): Promise<void> {
    for (const client of this.#clients.splice(0)) client.close();
    for (const app of this.#apps.splice(0)) {
      app.kill('SIGKILL');
      await app.exited;
    }
  }

  /** For `afterAll`. */
  remove(): void {
    rmSync(this.folder, { recursive: true });
  }
}

/** A service that never answers; `left` resolves when the request it got is given up. */
export async function silentService() {
  const server = http.createServer().listen(0);
  await once(server, 'listening');
  const left = once(server, 'request').then(async ([, res]) => {
    await once(res, 'close');
    server.close();
    return true;
  });
  return { url: `http://localhost:${(server.address() as AddressInfo).port}`, left };
}
