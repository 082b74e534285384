import { execFile } from 'node:child_process';
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
import net, { type AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import { promisify } from 'node:util';
import { gunzipSync, gzipSync } from 'node:zlib';
import { transformSync } from 'esbuild';
import { type AppProcess, Client, startApp } from './support/app-process';

jest.setTimeout(60_000);

const ROOT = path.join(__dirname, '..');
const readme = readFileSync(path.join(ROOT, 'README.md'), 'utf8');

interface Block {
  /** The heading it stands under, without the parameters, and its number there. */
  readonly name: string;
  readonly language: string;
  readonly code: string;
}

function blocksOf(markdown: string): Block[] {
  return markdown.split(/^#+ /m).flatMap((section) => {
    const heading = /^[^(\n]*/.exec(section)?.[0].trim();
    return [...section.matchAll(/^```(\w*)\n(.*?)^```$/gms)].map(([, language = '', code = ''], index) => ({
      name: `${heading} ${index + 1}`,
      language,
      code,
    }));
  });
}

const blocks = blocksOf(readme);

/** What the README's reader has by then: the imports of its first example, and an app. */
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

let folder: string;

beforeAll(() => {
  folder = realpathSync(mkdtempSync(path.join(tmpdir(), 'readme-')));
  write('package.json', '{ "type": "module" }');
  write('free-port.js', FREE_PORT);
  mkdirSync(path.join(folder, 'node_modules'));
  link(ROOT, 'express-unblock');
  for (const name of ['express', 'express4', 'http-errors', '@types'])
    link(path.join(ROOT, 'node_modules', name), name);
});

afterAll(() => rmSync(folder, { recursive: true }));

function link(target: string, name: string): void {
  symlinkSync(realpathSync(target), path.join(folder, 'node_modules', name));
}

function write(name: string, text: string): string {
  const file = path.join(folder, name);
  writeFileSync(file, text);
  return file;
}

function blockNamed(name: string): Block {
  return blocks.find((block) => block.name === name) as Block;
}

/** A whole program as it stands, a part of one with what comes before and after it. */
function programOf({ name, code }: Block, beside = ''): string {
  if (name === 'express-unblock 1') return code;
  return [PRELUDE, code, beside, /\bapp\.listen\(/.test(code) ? '' : 'app.listen(3000);'].join('\n');
}

let app: AppProcess | undefined;
const clients: Client[] = [];

async function run(name: string, { beside, env }: { beside?: string; env?: NodeJS.ProcessEnv } = {}) {
  const block = blockNamed(name);
  const program = programOf(block, beside);
  const file = write('app.js', block.language === 'ts' ? transformSync(program, { loader: 'ts' }).code : program);
  const app = await start(file, env);
  return { app, client: connect(app) };
}

async function start(file: string, env?: NodeJS.ProcessEnv): Promise<AppProcess> {
  const hook = pathToFileURL(path.join(folder, 'free-port.js')).href;
  app = await startApp(file, ['--import', hook], env);
  return app;
}

function connect({ url }: AppProcess): Client {
  const client = new Client(url);
  clients.push(client);
  return client;
}

afterEach(async () => {
  for (const client of clients.splice(0)) client.close();
  app?.kill('SIGKILL');
  await app?.exited;
  app = undefined;
});

/** A service that never answers; `left` resolves when the request it got is given up. */
async function silentService() {
  const server = http.createServer().listen(0);
  await once(server, 'listening');
  const left = once(server, 'request').then(async ([, res]) => {
    await once(res, 'close');
    server.close();
    return true;
  });
  return { url: `http://localhost:${(server.address() as AddressInfo).port}`, left };
}

/** For each block of the README, what the text around it promises. */
const promises: Record<string, () => Promise<void>> = {
  async 'express-unblock 1'() {
    const { app, client } = await run('express-unblock 1');
    const other = connect(app);
    const endless = JSON.parse(/curl .* -d '(.*)'$/m.exec(readme)?.[1] ?? '');

    const answers: unknown[] = [];
    const search = client.send('POST', '/search', endless);
    const searched = search.answer.then(({ status }) => answers.push(status));
    await search.sent;
    for (let n = 0; n < 10; n++) answers.push((await other.get('/others')).status);
    await searched;
    expect(answers).toEqual([...Array(10).fill(404), 504]);

    const found = await client.post('/search', { pattern: 'a.', text: 'abacus' });
    expect(found).toMatchObject({ status: 200, body: '["ab","ac"]' });

    const { port } = new URL(app.url);
    const upload = net.connect(Number(port), 'localhost');
    upload.write(
      'POST /search HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 5000000\r\n\r\n{',
    );
    const [answer] = await once(upload, 'data');
    upload.destroy();
    expect(String(answer)).toMatch(/^HTTP\/1.1 413 /);
  },

  async 'timeout 1'() {
    const prices = await silentService();
    const { client } = await run('timeout 1', { env: { PRICES_URL: prices.url } });
    const { millisecondsLeft } = JSON.parse((await client.get('/report')).body);
    expect(millisecondsLeft).toBeGreaterThan(10_000);
    expect((await client.get('/prices')).status).toBe(504);
    expect(await prices.left).toBe(true);
  },

  async 'offload 1'() {
    const { app, client } = await run('offload 1');
    expect(await client.get('/roots?n=4')).toMatchObject({ status: 200, body: String(1 + 2 ** 0.5 + 3 ** 0.5 + 2) });
    expect((await client.get('/roots/slowly')).status).toBe(200);
    const reports = [await app.nextLine(), await app.nextLine(), await app.nextLine(), await app.nextLine()];
    expect(reports).toEqual(['25%', '50%', '75%', '100%']);
  },

  async 'offload.module 1'() {
    const file = write('tasks.js', blockNamed('offload.module 1').code);
    const script = `import { compress } from ${JSON.stringify(file)}; console.log(compress(['x']).length);`;
    const { stdout } = await promisify(execFile)(process.execPath, ['--input-type=module', '--eval', script]);
    expect(stdout).toBe('1\n');
  },

  async 'offload.module 2'() {
    write('tasks.js', blockNamed('offload.module 1').code);
    const { client } = await run('offload.module 2');
    const { body } = await client.post('/compress', ['one text', 'another']);
    const texts = JSON.parse(body).map((text: string) => gunzipSync(Buffer.from(text, 'base64')).toString());
    expect(texts).toEqual(['one text', 'another']);
  },

  async 'createPool 1'() {
    const { client } = await run('createPool 1');
    expect((await client.get('/sum')).body).toBe('6');
    expect(JSON.parse((await client.get('/stats')).body)).toMatchObject({
      workers: 1,
      busy: 0,
      queued: 0,
      completed: 1,
    });
  },

  async 'closePools 1'() {
    const beside =
      "const slow = offload(() => new Promise((done) => setTimeout(done, 300, 'done')));" +
      "app.get('/', (req, res) => { res.set('Connection', 'close'); slow().then((text) => res.send(text)); console.log('called'); });";
    const { app, client } = await run('closePools 1', { beside });
    const answer = client.get('/');
    expect(await app.nextLine()).toBe('called');
    app.kill('SIGTERM');
    expect(await answer).toMatchObject({ status: 200, body: 'done' });
    expect(await app.exited).toBe(0);
  },

  async 'limitInput 1'() {
    const { client } = await run('limitInput 1');
    const statusOf = async (body: object | string) => {
      const headers = { 'Content-Type': 'application/json' };
      return (await client.send('POST', '/titles', body, headers).answer).status;
    };
    expect(await statusOf({ title: '€'.repeat(100) })).toBe(200);
    expect(await statusOf({ title: 'x'.repeat(101) })).toBe(413);
    expect(await statusOf({})).toBe(200);
    expect(await statusOf('['.repeat(32) + ']'.repeat(32))).toBe(200);
    expect(await statusOf('['.repeat(33) + ']'.repeat(33))).toBe(413);
    expect(await statusOf(Object.fromEntries(Array(10_001).fill(0).entries()))).toBe(413);
  },

  async 'problemDetails 1'() {
    const { client } = await run('problemDetails 1');
    expect((await client.post('/notes', 'short')).status).toBe(204);
    const { status, headers, body } = await client.post('/notes', 'rather long');
    expect(status).toBe(413);
    expect(headers['content-type']).toBe('application/problem+json; charset=utf-8');
    expect(JSON.parse(body)).toEqual({
      type: 'about:blank',
      title: http.STATUS_CODES[413],
      status: 413,
      detail: 'Request body is larger than the limit of 10 bytes',
      code: 'ERR_UNBLOCK_TOO_LARGE',
      limit: 10,
      expected: 11,
      measure: 'bytes',
    });
  },

  async 'currentDeadline 1'() {
    const rows = await silentService();
    const { client } = await run('currentDeadline 1', { env: { ROWS_URL: rows.url } });
    expect((await client.get('/rows')).status).toBe(504);
    expect(await rows.left).toBe(true);
  },

  async 'Diagnostics channels 1'() {
    const beside = `
      app.get('/late', timeout(50), (req, res) => {
        req.deadline.signal.addEventListener('abort', () => setImmediate(() => res.json('late')));
      });
      app.post('/small', limitInput(10));
      app.get('/work', offload(function work() { return 'done'; }).handler(() => []));
    `;
    const { app, client } = await run('Diagnostics channels 1', { beside });
    await client.get('/late');
    expect([await app.nextLine(), await app.nextLine()]).toEqual(['timeout /late 504', 'late json true']);
    await client.post('/small', 'more than small');
    expect(await app.nextLine()).toBe('reject 10');
    await client.get('/work');
    expect(await app.nextLine()).toBe('offload work completed');
  },
};

test('every code block of the README is known here, and the other way round', () => {
  expect(blocks.map(({ name }) => name)).toEqual(Object.keys(promises));
  expect(readme.match(/^```\w+$/gm)).toHaveLength(blocks.length);
});

test.each(Object.entries(promises))('%s does what the README says', (_, promise) => promise());

test('the TypeScript in the README passes a strict compiler, and is checked by it', async () => {
  const block = blocks.find(({ language }) => language === 'ts') as Block;
  write('tasks.js', blockNamed('offload.module 1').code);
  const compile = (program: string) => {
    const file = write('typed.ts', program);
    const flags = '--noEmit --strict --module nodenext --target es2022 --allowJs --skipLibCheck --types node'.split(
      ' ',
    );
    const tsc = path.join(ROOT, 'node_modules', 'typescript', 'bin', 'tsc');
    return promisify(execFile)(process.execPath, [tsc, ...flags, file], { cwd: folder });
  };
  await compile(programOf(block));
  await expect(compile(`${programOf(block)}\ntasks.decompress();`)).rejects.toMatchObject({
    stdout: expect.stringContaining("Property 'decompress' does not exist"),
  });
});

test('the first example has at most 12 lines', () => {
  expect(blocks[0]?.code.trim().split('\n').length).toBeLessThanOrEqual(12);
});

test.each(['express', 'express4'])('the first example works with require() and %s', async (express) => {
  const code = blocks[0]?.code.replace(/^import (.*) from '(.*)';$/gm, (_, names, from) => {
    return `const ${names} = require('${from === 'express' ? express : from}');`;
  });
  const app = await start(write('app.cjs', code ?? ''));
  expect(await connect(app).post('/search', { pattern: 'a.', text: 'abacus' })).toMatchObject({ body: '["ab","ac"]' });
  expect((await connect(app).post('/search', { pattern: '^(a+)+$', text: `${'a'.repeat(50)}!` })).status).toBe(504);
});

describe('what the README says beside its code', () => {
  async function serve(routes: string): Promise<Client> {
    return connect(await start(write('app.js', `${PRELUDE}${routes}\napp.use(problemDetails()); app.listen(3000);`)));
  }

  test('a handler that blocks the event loop answers late instead of being interrupted', async () => {
    const client = await serve(`app.get('/', timeout(10), (req, res) => {
      for (const start = performance.now(); performance.now() - start < 50; );
      res.json('late');
    });`);
    expect(await client.get('/')).toMatchObject({ status: 200, body: '"late"' });
  });

  test('an interrupted loop leaves its worker alive, one behind an await costs it', async () => {
    const client = await serve(`
      const options = { pool: createPool({ workers: 1 }), timeout: 100 };
      app.get('/pid', offload(() => process.pid, { pool: options.pool }).handler(() => []));
      app.get('/loop', offload(() => { for (;;); }, options).handler(() => []));
      app.get('/later', offload(async () => { await null; for (;;); }, options).handler(() => []));
    `);
    const pid = async () => {
      const { status, body } = await client.get('/pid');
      expect(status).toBe(200);
      return body;
    };
    // On a machine that is busy enough, one interrupt may take longer than it has; five do not.
    const pids = [await pid()];
    for (let n = 0; n < 5; n++) {
      expect((await client.get('/loop')).status).toBe(504);
      pids.push(await pid());
    }
    expect(new Set(pids).size).toBeLessThan(pids.length);

    expect((await client.get('/later')).status).toBe(504);
    expect(pids).not.toContain(await pid());
  });

  test('a variable from outside is named where the function is wrapped', async () => {
    const client = await serve(`const factor = 3; app.get('/', () => { offload((n) => n * factor); });
      app.use((error, req, res, next) => res.send(error.message));`);
    expect((await client.get('/')).body).toContain('"factor"');
  });

  test("the status of a task's error is the status of the answer", async () => {
    const client = await serve(`app.get('/', offload(async () => {
      const { default: createError } = await import('http-errors');
      throw createError(422, 'No such language');
    }).handler(() => []));`);
    const { status, body } = await client.get('/');
    expect(status).toBe(422);
    expect(JSON.parse(body)).toMatchObject({ detail: 'No such language' });
  });

  test('what a small body inflates to is left to the limit of the parser', async () => {
    const client = await serve(`app.post('/', limitInput('10kb'), express.text(), (req, res) => res.send('parsed'));`);
    const post = async (size: number) => {
      const body = gzipSync('x'.repeat(size));
      return (await client.send('POST', '/', body, { 'Content-Encoding': 'gzip' }).answer).status;
    };
    expect(await post(50_000)).toBe(200);
    expect(await post(1_000_000)).toBe(413);
  });
});

test('every export has its heading', () => {
  const headings = [...readme.matchAll(/^## ([\w./-]+)/gm)].map(([, heading]) => heading);
  expect(headings).toEqual(
    expect.arrayContaining([...Object.keys(require('express-unblock')), 'express-unblock/worker']),
  );
});

test('every error code has its row', () => {
  const thrown =
    readFileSync(path.join(ROOT, 'dist', 'errors.js'), 'utf8') +
    readFileSync(path.join(ROOT, 'dist', 'options.js'), 'utf8');
  const codes = new Set(thrown.match(/ERR_UNBLOCK_\w+/g));
  const rows = [...readme.matchAll(/^\| `(ERR_UNBLOCK_\w+)`/gm)].map(([, code]) => code);
  expect(rows.sort()).toEqual([...codes].sort());
});

test('links lead somewhere, and the commands exist', () => {
  const anchors = [...readme.matchAll(/^#+ (.*)$/gm)].map(
    ([, heading = '']) =>
      `#${heading
        .toLowerCase()
        .replace(/[^\w -]/g, '')
        .replaceAll(' ', '-')}`,
  );
  for (const [, target = ''] of readme.matchAll(/\]\(([^)]+)\)/g)) {
    if (target.startsWith('#')) expect(anchors).toContain(target);
    else if (!target.startsWith('https:'))
      expect([target, existsSync(path.join(ROOT, target))]).toEqual([target, true]);
  }
  const { name, scripts } = JSON.parse(readFileSync(path.join(ROOT, 'package.json'), 'utf8'));
  expect(readme).toContain(`\n    npm install ${name}\n`);
  expect(scripts).toMatchObject({ start: expect.any(String), test: expect.any(String), build: expect.any(String) });
});
