import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, readFileSync } from 'node:fs';
import http from 'node:http';
import type { AddressInfo } from 'node:net';
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import { promisify } from 'node:util';
import { transformSync } from '@swc/core';
import { WebSocket } from 'ws';
import { deadLinks, Page, ReadersFolder, ROOT } from '../support/markdown';
import { describeWithRedis, TestRedis } from '../support/redis';

jest.setTimeout(60_000);

const pages = new Map(
  readdirSync(path.join(ROOT, 'docs'))
    .filter((name) => name.endsWith('.md'))
    .map((name) => [name, new Page(path.join('docs', name))]),
);
/** Configuration of other programs, and what one types at a prompt, is not for a test to run. */
const isCode = ({ language }: { language: string }) => ['js', 'mjs', 'cjs', 'ts'].includes(language);

let reader: ReadersFolder;

beforeAll(() => {
  reader = new ReadersFolder(['multer', 'ws', 'prom-client', '@opentelemetry', 'yaml', '@nestjs', 'reflect-metadata']);
});
afterEach(() => reader.stop());
afterAll(() => reader.remove());

/** What a file of configuration exports. */
function evaluated(page: string, name: string): any {
  const code = blockOf(page, name).code.replace(/^export default/m, 'module.exports =');
  const module = { exports: {} };
  new Function('module', code)(module);
  return module.exports;
}

function compileDecorators(program: string): string {
  const jsc = {
    parser: { syntax: 'typescript', decorators: true },
    transform: { legacyDecorator: true },
    target: 'es2022',
  } as const;
  return transformSync(program, { jsc, module: { type: 'es6' } }).code;
}

async function outputOf(file: string): Promise<string> {
  const { stdout } = await promisify(execFile)(process.execPath, [file]);
  return stdout;
}

/** The three files of the page's program, beside a Redis of the test's own. */
async function callThroughRedis(): Promise<void> {
  const redis = await TestRedis.start();
  const env = { REDIS_URL: redis.url };
  const [tasks, worker, app] = [1, 2, 3].map((n) => blockOf('many-machines.md', `The road in ${n}`).code);
  reader.write('tasks.mjs', tasks as string);
  const file = reader.write('worker.mjs', worker as string);
  const service = spawn(process.execPath, [file], { env: { ...process.env, ...env }, stdio: 'inherit' });
  try {
    const client = reader.connect(await reader.start(reader.write('app.mjs', app as string), env));
    expect((await client.get('/primes/100')).body).toBe('25');
  } finally {
    service.kill('SIGKILL');
    await redis.stop();
  }
}

type Options = Parameters<ReadersFolder['run']>[1];

function blockOf(page: string, name: string) {
  return (pages.get(page) as Page).block(name);
}

/** For each code block of a page, what the text around it promises. */
type Run = (options?: Options) => ReturnType<ReadersFolder['run']>;
type Promised =
  | ((run: Run) => void | Promise<void>)
  | { readonly needsRedis: () => Promise<void> }
  /** It is a part of another block's program, or runs in a suite of its own. */
  | { readonly runWith: string }
  | { readonly runIn: string };

const promises: Record<string, Record<string, Promised>> = {
  'admission.md': {
    'Refusing what will not be done in time 1': { runIn: 'docs-admission.test.ts' },
    "Begin with 'observe' 1": { runIn: 'docs-admission.test.ts' },
    'Before anything is read 1': { runIn: 'docs-admission.test.ts' },
  },

  'recipes.md': {
    async 'Share constants with a function 1'(run) {
      const { client } = await run();
      const { body } = await client.post('/prices', [{ net: 100, rate: 'reduced' }]);
      expect(JSON.parse(body)[0]).toBeCloseTo(110);
    },

    async 'Send images, PDFs or other files 1'(run) {
      const beside = "app.get('/fails', asSvg, drawDot.handler(() => [1n, () => {}])); app.use(problemDetails());";
      const { client } = await run({ beside });
      expect(await client.get('/dots/red')).toMatchObject({
        status: 200,
        headers: { 'content-type': 'image/svg+xml' },
        body: expect.stringContaining('fill="red"'),
      });
      const failed = await client.get('/fails');
      expect([failed.status, failed.headers['content-type']]).toEqual([500, 'application/problem+json; charset=utf-8']);
    },

    async 'Tell how far it has come 1'(run) {
      const { app, client } = await run();
      expect((await client.get('/roots/4000000')).status).toBe(200);
      const reports = [await app.nextLine(), await app.nextLine(), await app.nextLine(), await app.nextLine()];
      expect(reports).toEqual(['25%', '50%', '75%', '100%']);
    },

    async 'Answer with another status, or only a part of the result 1'(run) {
      const { client } = await run();
      expect(await client.post('/words/sat', 'a cat sat')).toMatchObject({ status: 200, body: '{"at":6}' });
      expect((await client.post('/words/dog', 'a cat sat')).status).toBe(404);
    },

    async 'A deadline for all routes but one 1'(run) {
      const { client } = await run();
      expect((await client.get('/reports/1')).body).toBe('{"seconds":60}');
      expect((await client.get('/exports/1')).body).toBe('{"limited":false}');
    },

    async 'Server-sent events and other streams 1'(run) {
      const { app } = await run();
      const req = http.get(`${app.url}/events`);
      const [res] = (await once(req, 'response')) as [http.IncomingMessage];
      for (let n = 0; n < 25; n++) await once(res, 'data'); // Longer than the deadline.
      req.destroy();
      expect(await app.nextLine()).toBe('nobody listens any more');
    },

    async 'Long polling 1'(run) {
      const { app, client } = await run();
      const polled = client.send('GET', '/news');
      await polled.sent;
      const other = reader.connect(app);
      for (let heard = false; !heard; ) {
        await other.post('/news', { what: 'rain' });
        heard = await Promise.race([polled.answer.then(() => true), other.get('/').then(() => false)]);
      }
      expect((await polled.answer).body).toBe('{"what":"rain"}');
      expect((await client.get('/news')).status).toBe(204);
    },

    async 'Websockets 1'(run) {
      const { app } = await run();
      const socket = new WebSocket(app.url.replace('http', 'ws'));
      await once(socket, 'open');
      socket.send('stressed');
      const [answer] = await once(socket, 'message');
      expect(String(answer)).toBe('desserts');
      socket.close();
    },

    async 'A proxy behind a deadline 1'(run) {
      const stock = http.createServer().listen(0);
      await once(stock, 'listening');
      const { client } = await run({ env: { STOCK_URL: `http://localhost:${(stock.address() as AddressInfo).port}` } });
      const answer = client.get('/stock/7');
      const [req, res] = (await once(stock, 'request')) as [http.IncomingMessage, http.ServerResponse];
      const left = Number(req.headers['x-envoy-expected-rq-timeout-ms']);
      expect(left).toBeGreaterThan(1000);
      expect(left).toBeLessThanOrEqual(2000);
      await once(res, 'close');
      stock.close();
      expect((await answer).status).toBe(504);
    },

    async 'File uploads with multer 1'(run) {
      const { client } = await run();
      const upload = (size: number) => {
        const file = `--x\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n${'a\n'.repeat(size / 2)}\r\n--x--\r\n`;
        return client.send('POST', '/files', file, { 'Content-Type': 'multipart/form-data; boundary=x' }).answer;
      };
      expect(await upload(20)).toMatchObject({ status: 200, body: '{"lines":11}' });
      expect((await upload(3_000_000)).status).toBe(413);
    },

    async 'Callbacks of old connection pools 1'(run) {
      const beside = `
        const waiting = [];
        let timer;
        const answer = () => { for (const [id, callback] of waiting.splice(0)) callback(null, 'name ' + id); };
        const legacyPool = {
          query(...call) {
            waiting.push(call);
            timer ??= setInterval(answer, 5);
          },
        };
        const tell = (req, res) => () => res.json(currentDeadline() === req.deadline);
        app.get('/bare', timeout('2s'), (req, res) => legacyPool.query(1, tell(req, res)));
        app.get('/bound', timeout('2s'), (req, res) => legacyPool.query(1, AsyncResource.bind(tell(req, res))));
      `;
      const { client } = await run({ beside });
      expect((await client.get('/names/7')).body).toBe('{"name":"name 7"}');
      expect((await client.get('/bare')).body).toBe('false');
      expect((await client.get('/bound')).body).toBe('true');
    },

    async 'Logs and metrics 1'(run) {
      const beside = `
        app.get('/late', timeout(50), (req, res) => {
          req.deadline.signal.addEventListener('abort', () => setImmediate(() => res.json('late')));
        });
        app.post('/small', limitInput(10));
        app.get('/work', offload(function work() { return 'done'; }).handler(() => []));
      `;
      const { app, client } = await run({ beside });
      await client.get('/late');
      expect([await app.nextLine(), await app.nextLine()]).toEqual(['timeout /late 504', 'late json true']);
      await client.post('/small', 'more than small');
      expect(await app.nextLine()).toBe('reject 10');
      await client.get('/work');
      expect(await app.nextLine()).toBe('offload work completed');
    },

    async 'Logs and metrics 2'(run) {
      const beside = `app.get('/work', offload(function work() {}).handler(() => [])); app.get('/slow', timeout(50), () => {});`;
      const { client } = await run({ beside });
      await client.get('/work');
      await client.get('/slow');
      const { body } = await client.get('/metrics');
      expect(body).toContain('unblock_timeouts_total{code="ERR_UNBLOCK_TIMEOUT"} 1');
      expect(body).toContain('unblock_call_seconds_count{task="work",outcome="completed"} 1');
    },

    async 'Logs and metrics 3'(run) {
      const beside = `
        const ended = [];
        trace.setGlobalTracerProvider({
          getTracer: () => ({
            startSpan: (name) => ({
              setAttributes({ outcome }) { ended.push(name + ' ' + outcome); return this; },
              end() {},
            }),
          }),
        });
        app.get('/work', offload(function work() {}).handler(() => []));
        app.get('/ended', (req, res) => res.json(ended));
      `;
      const { client } = await run({ beside });
      await client.get('/work');
      expect((await client.get('/ended')).body).toBe('["offload work completed"]');
    },

    async 'NestJS 1'() {
      const module = `import { Controller, Get, Module } from '@nestjs/common';
        import { offload } from 'express-unblock';
        const loop = offload(() => { for (;;); }, { timeout: '10s' });
        class Loops { loop() { return loop(); } }
        Reflect.decorate([Controller()], Loops);
        Reflect.decorate([Get('loop')], Loops.prototype, 'loop', Object.getOwnPropertyDescriptor(Loops.prototype, 'loop'));
        class AppModule {}
        Reflect.decorate([Module({ controllers: [Loops] })], AppModule);
        export { AppModule };`;
      reader.write('app.module.js', `import 'reflect-metadata'; ${module}`);
      const { code } = blockOf('recipes.md', 'NestJS 1');
      const quiet = code.replace('(AppModule)', '(AppModule, { logger: false })').replace("'5s'", "'500ms'");
      const app = await reader.start(reader.write('nest-app.js', compileDecorators(quiet)));
      const client = reader.connect(app);
      const late = await client.get('/loop');
      expect([late.status, JSON.parse(late.body)]).toEqual([504, { status: 504, code: 'ERR_UNBLOCK_TIMEOUT' }]);
      expect(await app.nextLine()).toMatch(/^504 /);
      // It logs the deadline once, so that the next line is that of the next request.
      const large = await client.post('/loop', 'x'.repeat(200_000));
      expect([large.status, JSON.parse(large.body)]).toEqual([413, { status: 413, code: 'ERR_UNBLOCK_TOO_LARGE' }]);
      expect(await app.nextLine()).toMatch(/^413 /);
    },

    async 'How many workers, and how long a queue 1'(run) {
      const beside = "await pool.ready(); app.get('/', (req, res) => res.json(pool.stats().workers));";
      const { client } = await run({ beside, env: { instances: '1000' } });
      expect((await client.get('/')).body).toBe('1');
    },

    async 'Health checks 1'(run) {
      const { client } = await run();
      expect((await client.get('/live')).status).toBe(200);
      expect((await client.get('/ready')).status).toBe(204);
      expect((await client.get('/squares/3')).body).toBe('9');
    },
  },

  'many-machines.md': {
    'The road in 1': { runWith: 'The road in 3' },
    'The road in 2': { runWith: 'The road in 3' },
    'The road in 3': { needsRedis: callThroughRedis },
  },

  'shutdown.md': {
    'Shutting down 1': { runIn: 'shutdown.test.ts' },
    'pm2 1': () => {
      const module = evaluated('shutdown.md', 'pm2 1');
      expect(module.apps).toEqual([{ name: 'app', script: 'app.js', kill_timeout: 30_000 }]);
    },
    'cluster 1': { runIn: 'shutdown.test.ts' },
    async 'NestJS 1'() {
      const { code } = blockOf('shutdown.md', 'NestJS 1');
      const program = `import 'reflect-metadata';
        import { Module } from '@nestjs/common';
        import { NestFactory } from '@nestjs/core';
        import { createPool } from 'express-unblock';
        ${code}
        @Module({ providers: [WorkerPools] })
        class AppModule {}
        const pool = createPool();
        const app = await NestFactory.create(AppModule, { logger: false });
        await app.init();
        await app.close();
        await pool.ready().catch((error) => console.log(error.code));`;
      const file = reader.write('nest.mjs', compileDecorators(program));
      expect(await outputOf(file)).toBe('ERR_UNBLOCK_POOL_CLOSED\n');
    },
    async 'Files that serve both sides 1'(run) {
      const { client } = await run();
      expect((await client.get('/')).status).toBe(404);
    },
  },

  'tool-chains.md': {
    async 'Vitest 1'(run) {
      reader.write('tasks.ts', 'export const double = (n: number): number => n * 2;');
      if ((process.features as { typescript?: unknown }).typescript) {
        const { client } = await run({ beside: "app.get('/', tasks.double.handler(() => [21]));" });
        expect((await client.get('/')).body).toBe('42');
        return;
      }
      const { code } = blockOf('tool-chains.md', 'Vitest 1');
      const program = `import { offload } from 'express-unblock'; ${code.replace(/<.*?>(?=\()/, '')}`;
      await expect(outputOf(reader.write('refused.js', program))).rejects.toThrow(/tasks\.ts.*execArgv/s);
    },
    async 'Jest 1'(run) {
      const { client } = await run({ beside: "app.get('/', sum.handler(() => [[1, 2]]));" });
      expect((await client.get('/')).body).toBe('3');
    },
    async 'Jest 2'() {
      const { code } = blockOf('tool-chains.md', 'Jest 2');
      const program = `import { closePools, createPool } from 'express-unblock';
        const pool = createPool();
        const afterAll = async (hook) => {
          await hook();
          await pool.ready().catch((error) => console.log(error.code));
        };
        ${code}`;
      expect(await outputOf(reader.write('hook.js', program))).toBe('ERR_UNBLOCK_POOL_CLOSED\n');
    },
    'esbuild, webpack, Rollup, ncc 1': () => {
      const { externals } = evaluated('tool-chains.md', 'esbuild, webpack, Rollup, ncc 1');
      const external = (request: string) => {
        let answer: unknown;
        externals[0]({ request }, (_: unknown, found: unknown) => {
          answer = found;
        });
        return answer;
      };
      expect([external('express-unblock'), external('./own.js')]).toEqual(['module express-unblock', undefined]);
    },
    'esbuild, webpack, Rollup, ncc 2': () => {
      const { external } = evaluated('tool-chains.md', 'esbuild, webpack, Rollup, ncc 2');
      expect(external).toContain('express-unblock');
    },
    async 'esbuild, webpack, Rollup, ncc 3'(run) {
      const { client } = await run({ beside: "app.get('/', parse.handler(() => ['a: 1']));" });
      expect((await client.get('/')).body).toBe('{"a":1}');
    },
    async 'Monitoring agents and debuggers 1'() {
      const started = path.join(reader.folder, 'started');
      reader.write(
        'start-agent.mjs',
        `import fs from 'node:fs'; fs.appendFileSync(${JSON.stringify(started)}, 'once');`,
      );
      const hook = reader.write('instrument.mjs', blockOf('tool-chains.md', 'Monitoring agents and debuggers 1').code);
      const program = reader.programOf({ code: "app.get('/', offload(() => 'done').handler(() => []));" });
      const app = await reader.start(reader.write('app.js', program), {
        NODE_OPTIONS: `--import ${pathToFileURL(hook)}`,
      });
      expect((await reader.connect(app).get('/')).body).toBe('done');
      expect(readFileSync(started, 'utf8')).toBe('once');
    },
    async 'Monitoring agents and debuggers 2'(run) {
      const { client } = await run();
      expect((await client.get('/')).status).toBe(404);
    },
  },

  'watch.md': {
    'Starting it 1': { runIn: 'watch-page.test.ts' },
    'Every block, for your metrics 1': { runIn: 'watch-page.test.ts' },
    'A process that hangs 1': { runIn: 'watch-page.test.ts' },
  },

  'proxies.md': {
    'Behind a proxy 1': { runIn: 'proxies.test.ts' },
    'Cloudflare 1': { runIn: 'proxies.test.ts' },
  },

  'errors.md': {
    async 'Errors 1'(run) {
      const { client } = await run({ beside: "app.post('/', limitInput(5)); app.use(answerErrors);" });
      expect(await client.get('/slow')).toMatchObject({ status: 504, body: 'Not done within 50 ms' });
      expect(await client.post('/', 'too much')).toMatchObject({ status: 413, body: 'At most 5, please' });
    },
  },
};

describe.each([...pages])('docs/%s', (name, page) => {
  const known = Object.entries(promises[name] ?? {});
  const code = page.blocks.filter(isCode);

  test('every code block is known here, and the other way round', () => {
    expect(known.map(([block]) => block)).toEqual(code.map((block) => block.name));
    for (const [block, promised] of known) {
      if ('runIn' in promised) {
        const suite = readFileSync(path.join(__dirname, promised.runIn), 'utf8');
        expect(suite).toContain(`docs/${name}`);
        expect(suite).toContain(block);
      } else if ('runWith' in promised) expect(known.map(([other]) => other)).toContain(promised.runWith);
    }
  });

  for (const [block, promised] of known) {
    const title = `${block} does what the page says`;
    if (typeof promised === 'function')
      test(title, async () => promised((options) => reader.run(page.block(block), options)));
    else if ('needsRedis' in promised) describeWithRedis('with Redis', () => test(title, promised.needsRedis));
  }

  test('links lead somewhere', () => {
    expect(deadLinks(page)).toEqual([]);
  });
});

test('every error code has its section', () => {
  const rows = [...new Page('README.md').text.matchAll(/^\| `(ERR_UNBLOCK_\w+)`/gm)].map(([, code]) => code);
  const sections = [...(pages.get('errors.md') as Page).text.matchAll(/^### (ERR_UNBLOCK_\w+)/gm)].map(
    ([, code]) => code,
  );
  expect(sections.sort()).toEqual(rows.sort());
});

test('every figure in the README is one of those measured', () => {
  const { text } = new Page('README.md');
  const rows = [...text.matchAll(/^\| (.*) \| (.*) \| (.*) \| \[[\w-]+\]\((benchmarks.*?)\).*\|$/gm)];
  expect(rows.length).toBeGreaterThanOrEqual(5);
  for (const [, what, ours, others, file = ''] of rows) {
    const measured: string[] = new Page(file).text.match(/\d[\d,.]*%?/g) ?? [];
    const figures: string[] = `${ours} ${others}`.replace(/p99/g, '').match(/\d[\d,.]*\d%?|\d+%?/g) ?? [];
    expect(figures.length).toBeGreaterThan(2);
    expect([what, figures.filter((figure) => !measured.includes(figure))]).toEqual([what, []]);
  }
});
