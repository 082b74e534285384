import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import http from 'node:http';
import https from 'node:https';
import type { Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { gzipSync } from 'node:zlib';
import { limitInput, problemDetails } from 'express-unblock';
import { certificate } from './support/certificate';
import { closeAll, expressVersions, serve } from './support/raw-http';

const MIB = 1024 * 1024;
const UPLOADS = 20;
const AT_ONCE = 4;

const missing = (tool: string, ...args: string[]) => {
  if (spawnSync(tool, args).status === 0) return false;
  console.log(`no ${tool} here: its tests are skipped`);
  return true;
};
const curlIt = missing('curl', '--version') ? it.skip : it;

let folder: string;
let upload: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'limit-input-clients-'));
  upload = join(folder, 'upload');
  await writeFile(upload, Buffer.alloc(5 * MIB, 'x'));
});
afterAll(() => rm(folder, { recursive: true }));
afterEach(closeAll);

// Bytes take their time on a busy machine, and there are many of them.
jest.setTimeout(60_000);

/** Runs `send` `UPLOADS` times, a few at once. */
async function uploads<T>(send: () => Promise<T>): Promise<T[]> {
  const results: T[] = [];
  const lane = async () => {
    for (let i = 0; i < UPLOADS / AT_ONCE; i++) results.push(await send());
  };
  await Promise.all(Array.from({ length: AT_ONCE }, lane));
  return results;
}

describe.each(expressVersions)('5 MB against a limit of 100 kB (%s)', (_name, express) => {
  function createApp() {
    const app = express();
    app.use(limitInput('100kb'), express.raw({ type: () => true }));
    app.use((req, res) => void res.json({ read: req.body.length }));
    app.use(problemDetails());
    return app;
  }
  const refusal = { status: 413, code: 'ERR_UNBLOCK_TOO_LARGE', limit: 102_400 };

  async function curl(port: number, ...args: string[]) {
    const child = spawn('curl', ['-sS', '-m', '20', '-w', '\n%{http_code}', ...args, `http://localhost:${port}/`]);
    const [output, errors] = await Promise.all([text(child.stdout), text(child.stderr), once(child, 'close')]);
    const end = output.lastIndexOf('\n');
    return { status: Number(output.slice(end)), body: output.slice(0, end), errors };
  }

  it('is a 413 with its body to fetch, every time', async () => {
    const port = await serve(createApp());
    const body = Buffer.alloc(5 * MIB);
    const answers = await uploads(async () => {
      const response = await fetch(`http://localhost:${port}`, { method: 'POST', body });
      return [response.status, await response.json()];
    });
    expect(answers).toEqual(Array(UPLOADS).fill([413, expect.objectContaining(refusal)]));
  });

  it('is a 413 with its body to fetch of a stream, every time', async () => {
    const block = Buffer.alloc(64 * 1024);
    const answers = await uploads(async () => {
      let left = 80;
      const body = new ReadableStream({
        pull: (controller) => (left-- > 0 ? controller.enqueue(block) : controller.close()),
      });
      const init = { method: 'POST', body, duplex: 'half' } as RequestInit;
      // Each has a connection of its own: one that had such a long remainder is closed after it, not used again.
      const response = await fetch(`http://localhost:${await serve(createApp())}`, init);
      return [response.status, await response.json()];
    });
    expect(answers).toEqual(Array(UPLOADS).fill([413, expect.objectContaining(refusal)]));
  });

  it.each([
    ['with a Content-Length over kept-alive connections', { 'Content-Length': 5 * MIB }, true],
    ['chunked', {}, false],
  ])('is a 413 with its body to http.request, %s, every time', async (_how, headers, keepAlive) => {
    const port = await serve(createApp());
    const agent = new http.Agent({ keepAlive, maxSockets: AT_ONCE });
    const body = Buffer.alloc(5 * MIB);
    const answers = await uploads(async () => {
      const request = http.request({ port, agent, method: 'POST', headers });
      request.end(body);
      const [response] = (await once(request, 'response')) as [http.IncomingMessage];
      // The answer is what counts; what becomes of the rest of the upload after it does not.
      request.on('error', () => {});
      return [response.statusCode, JSON.parse(await text(response))];
    });
    agent.destroy();
    expect(answers).toEqual(Array(UPLOADS).fill([413, expect.objectContaining(refusal)]));
  });

  curlIt.each([
    ['with a Content-Length', []],
    ['chunked', ['-H', 'Transfer-Encoding: chunked']],
    ['without waiting for the 100', ['-H', 'Expect:']],
    ['over HTTP/1.0', ['-0']],
  ])('is a 413 with its body to curl, %s, every time', async (_how, args) => {
    const port = await serve(createApp());
    const answers = await uploads(async () => {
      const { status, body, errors } = await curl(port, '--data-binary', `@${upload}`, ...args);
      return { status, errors, body: JSON.parse(body) };
    });
    const one = { status: 413, errors: '', body: expect.objectContaining(refusal) };
    expect(answers).toEqual(Array(UPLOADS).fill(one));
  });

  curlIt('is not even sent by curl, which waits for the 100 and is told 413', async () => {
    const server = http.createServer(createApp());
    const connection = once(server, 'connection') as Promise<[Socket]>;
    const port = await serve(server);
    const expecting = ['-H', 'Expect: 100-continue', '--expect100-timeout', '15', '--data-binary', `@${upload}`];
    expect(await curl(port, ...expecting)).toMatchObject({ status: 413 });
    const [{ bytesRead }] = await connection;
    expect(bytesRead).toBeGreaterThan(0);
    expect(bytesRead).toBeLessThan(1000);
  });

  curlIt('leaves what is within the limit as it was for curl', async () => {
    const port = await serve(createApp());
    for (const args of [[], ['-H', 'Expect: 100-continue'], ['-H', 'Transfer-Encoding: chunked']]) {
      const answer = await curl(port, '--data-binary', 'x'.repeat(5000), ...args);
      expect(answer).toEqual({ status: 200, body: '{"read":5000}', errors: '' });
    }
  });

  it('is a 413 with its body over TLS, every time, and the connection serves on after a small one', async () => {
    const server = https.createServer(certificate, createApp());
    const port = await serve(server as unknown as http.Server);
    const agent = new https.Agent({ keepAlive: true, maxSockets: 1, rejectUnauthorized: false });
    const post = async (size: number, headers: http.OutgoingHttpHeaders) => {
      const request = https.request({ port, agent, method: 'POST', headers });
      request.end(Buffer.alloc(size));
      const [response] = (await once(request, 'response')) as [http.IncomingMessage];
      request.on('error', () => {});
      return { status: response.statusCode, body: JSON.parse(await text(response)), reused: request.reusedSocket };
    };
    for (let i = 0; i < 5; i++) {
      expect(await post(5 * MIB, { 'Content-Length': 5 * MIB })).toMatchObject({ status: 413, body: refusal });
      expect(await post(200_000, { 'Content-Length': 200_000 })).toMatchObject({ status: 413, body: refusal });
      expect(await post(10, {})).toMatchObject({ status: 200, body: { read: 10 }, reused: true });
    }
    agent.destroy();
  });
});

it('stops a gzip bomb of 1 GB at the limit of the parser, having inflated no more than that', async () => {
  const [[, express]] = expressVersions as [(typeof expressVersions)[0]];
  const app = express();
  app.use(limitInput('2mb'), express.json({ limit: '100kb' }));
  app.use(problemDetails());
  const port = await serve(app);
  const bomb = Buffer.concat(Array(64).fill(gzipSync(Buffer.alloc(16 * MIB, ' '))));
  expect(bomb.length).toBeLessThan(2 * MIB);
  const before = process.memoryUsage().rss;
  const response = await fetch(`http://localhost:${port}`, {
    method: 'POST',
    body: bomb,
    headers: { 'Content-Type': 'application/json', 'Content-Encoding': 'gzip' },
  });
  expect([response.status, await response.json()]).toEqual([413, expect.objectContaining({ limit: 102_400 })]);
  expect(process.memoryUsage().rss - before).toBeLessThan(200 * MIB);
});
