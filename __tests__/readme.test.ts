import { execFile } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import http from 'node:http';
import net from 'node:net';
import path from 'node:path';
import { promisify } from 'node:util';
import { gunzipSync, gzipSync } from 'node:zlib';
import type { Client } from './support/app-process';
import { deadLinks, Page, ReadersFolder, ROOT, silentService } from './support/markdown';

jest.setTimeout(60_000);

const page = new Page('README.md');
const { text: readme, blocks } = page;
let reader: ReadersFolder;

beforeAll(() => {
  reader = new ReadersFolder();
});
afterEach(() => reader.stop());
afterAll(() => reader.remove());

const run = (name: string, options?: { beside?: string; env?: NodeJS.ProcessEnv }) =>
  reader.run(page.block(name), options);

/** For each block of the README, what the text around it promises. */
const promises: Record<string, () => Promise<void>> = {
  async 'express-unblock 1'() {
    const { app, client } = await run('express-unblock 1');
    const other = reader.connect(app);
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
    const file = reader.write('tasks.js', page.block('offload.module 1').code);
    const script = `import { compress } from ${JSON.stringify(file)}; console.log(compress(['x']).length);`;
    const { stdout } = await promisify(execFile)(process.execPath, ['--input-type=module', '--eval', script]);
    expect(stdout).toBe('1\n');
  },

  async 'offload.module 2'() {
    reader.write('tasks.js', page.block('offload.module 1').code);
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
  const block = blocks.find(({ language }) => language === 'ts') as (typeof blocks)[number];
  reader.write('tasks.js', page.block('offload.module 1').code);
  const compile = (program: string) => {
    const file = reader.write('typed.ts', program);
    const flags = '--noEmit --strict --module nodenext --target es2022 --allowJs --skipLibCheck --types node'.split(
      ' ',
    );
    const tsc = path.join(ROOT, 'node_modules', 'typescript', 'bin', 'tsc');
    return promisify(execFile)(process.execPath, [tsc, ...flags, file], { cwd: reader.folder });
  };
  await compile(reader.programOf(block));
  await expect(compile(`${reader.programOf(block)}\ntasks.decompress();`)).rejects.toMatchObject({
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
  const app = await reader.start(reader.write('app.cjs', code ?? ''));
  expect(await reader.connect(app).post('/search', { pattern: 'a.', text: 'abacus' })).toMatchObject({
    body: '["ab","ac"]',
  });
  expect((await reader.connect(app).post('/search', { pattern: '^(a+)+$', text: `${'a'.repeat(50)}!` })).status).toBe(
    504,
  );
});

describe('what the README says beside its code', () => {
  async function serve(routes: string): Promise<Client> {
    return reader.connect(
      await reader.start(reader.write('app.js', reader.programOf({ code: routes }, 'app.use(problemDetails());'))),
    );
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
  expect(deadLinks(page)).toEqual([]);
  const { name, scripts } = JSON.parse(readFileSync(path.join(ROOT, 'package.json'), 'utf8'));
  expect(readme).toContain(`\n    npm install ${name}\n`);
  expect(scripts).toMatchObject({ start: expect.any(String), test: expect.any(String), build: expect.any(String) });
});
