import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import net from 'node:net';
import path from 'node:path';
import { promisify } from 'node:util';
import { gunzipSync, gzipSync } from 'node:zlib';
import { connectPool } from 'express-unblock/bullmq';
import type { Client } from './support/app-process';
import { deadLinks, Page, ReadersFolder, ROOT, silentService } from './support/markdown';
import { describeWithRedis, TestRedis } from './support/redis';

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

/** Runs the service of the README beside a Redis of the test's own. */
async function withService(use: (service: ChildProcess, env: { REDIS_URL: string }) => Promise<void>): Promise<void> {
  const redis = await TestRedis.start();
  const env = { REDIS_URL: redis.url };
  reader.write('tasks.js', page.block('offload.module 1').code);
  const file = reader.write('worker.js', page.block('express-unblock/bullmq 2').code);
  const service = spawn(process.execPath, [file], { env: { ...process.env, ...env }, stdio: 'inherit' });
  try {
    await use(service, env);
  } finally {
    service.kill('SIGKILL');
    await redis.stop();
  }
}

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

  async 'express-unblock/watch 1'() {
    const beside = `app.get('/users/:id', function hold(req, res) {
      for (const end = performance.now() + 400; performance.now() < end; );
      res.send('done');
    });`;
    const { app, client } = await run('express-unblock/watch 1', { beside });
    const line = app.nextLine();
    let isTold = false;
    void line.then(() => {
      isTold = true;
    });
    while (!isTold) await client.get('/users/7'); // What happens while an app starts is not told.
    expect(await line).toMatch(
      /^express-unblock: GET \/users\/:id blocked the event loop for \d+ ms in hold \(.*app\.js:\d+\).*offload\(\)/,
    );
  },

  async 'offload 1'() {
    const { client } = await run('offload 1');
    expect(await client.get('/roots?n=4')).toMatchObject({ status: 200, body: String(1 + 2 ** 0.5 + 3 ** 0.5 + 2) });
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

  async 'size: refuse what cannot be done in time 1'() {
    const { client } = await run('size: refuse what cannot be done in time 1');
    expect(await client.post('/summaries', 'A short one. One that is longer than twenty')).toMatchObject({
      status: 200,
      body: '["One that is longer than twenty"]',
    });
    expect((await client.get('/limits')).body).toBe('{"characters":null}');
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

  async 'timeout 1'() {
    const prices = await silentService();
    const { client } = await run('timeout 1', { env: { PRICES_URL: prices.url } });
    const { millisecondsLeft } = JSON.parse((await client.get('/report')).body);
    expect(millisecondsLeft).toBeGreaterThan(10_000);
    expect((await client.get('/prices')).status).toBe(504);
    expect(await prices.left).toBe(true);
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

  async 'express-unblock/bullmq 1'() {
    const beside = "app.get('/ready', async (req, res) => { await pool.ready(); res.json(pool.stats().workers); });";
    await withService(async (_service, env) => {
      const { client } = await run('express-unblock/bullmq 1', { beside, env });
      expect((await client.get('/ready')).body).toBe('4');
      const { status, body } = await client.post('/compress', ['one text']);
      expect([status, JSON.parse(body).length]).toEqual([200, 1]);
    });
  },

  async 'express-unblock/bullmq 2'() {
    await withService(async (service, env) => {
      const pool = connectPool({ connection: env.REDIS_URL, queue: 'reports' });
      await pool.ready();
      await pool.close();
      service.kill('SIGTERM');
      expect(await once(service, 'exit')).toEqual([0, null]);
    });
  },
};

test('every code block of the README is known here, and the other way round', () => {
  expect(blocks.map(({ name }) => name)).toEqual(Object.keys(promises));
  expect(readme.match(/^```\w+$/gm)).toHaveLength(blocks.length);
});

const needsRedis = ([name]: [string, unknown]) => name.startsWith('express-unblock/bullmq');

test.each(Object.entries(promises).filter((entry) => !needsRedis(entry)))(
  '%s does what the README says',
  (_, promise) => promise(),
);

describeWithRedis('with Redis', () => {
  test.each(Object.entries(promises).filter(needsRedis))('%s does what the README says', (_, promise) => promise());
});

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

test('every export has its heading, or is what a paragraph begins with', () => {
  const headings = [...readme.matchAll(/^(?:## |\*\*)(.*)/gm)].map(([, heading]) => heading).join('\n');
  const names = headings.match(/[\w./-]+/g);
  expect(names).toEqual(expect.arrayContaining(Object.keys(require('express-unblock'))));
  const subpaths = Object.keys(JSON.parse(readFileSync(path.join(ROOT, 'package.json'), 'utf8')).exports);
  const forUsers = subpaths.filter((name) => name.startsWith('./') && !/json$|register$/.test(name));
  expect(names).toEqual(expect.arrayContaining(forUsers.map((name) => name.replace('.', 'express-unblock'))));
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
