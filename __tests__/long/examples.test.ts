import { execFileSync } from 'node:child_process';
import path from 'node:path';
import sharp from 'sharp';
import { type AppProcess, Client, startApp } from '../support/app-process';
import { ROOT } from '../support/markdown';

jest.setTimeout(60_000);

let app: AppProcess;
let client: Client;
let other: Client;

/** Each describe runs one example, as its users do, and ends it as their platform does. */
function running(example: string, ending: number | NodeJS.Signals = 0) {
  beforeEach(async () => {
    app = await startApp(path.join(__dirname, '..', '..', 'examples', example));
    client = new Client(app.url);
    other = new Client(app.url);
  });

  afterEach(async () => {
    client.close();
    other.close();
    app.kill('SIGTERM');
    expect(await app.exited).toBe(ending);
  });
}

const longTexts = { a: 'kitten '.repeat(1000), b: 'sitting '.repeat(1000) };
const shortTexts = { a: 'kitten', b: 'sitting' };

/** Has the comparison of two long texts in the server's hands, then pings from another connection. */
async function pingBesideComparison(): Promise<string[]> {
  const answers: string[] = [];
  await Promise.all([client.get('/ping'), other.get('/ping')]); // Both are connected: what is sent first arrives first.
  const comparison = client.send('POST', '/distance', longTexts);
  const compared = comparison.answer.then(({ status }) => answers.push(`distance ${status}`));
  await comparison.sent;
  for (let n = 0; n < 100; n++) answers.push((await other.get('/ping')).body);
  await compared;
  return answers;
}

describe('examples/blocked.mjs', () => {
  running('blocked.mjs');

  test('computes the distance of two texts', async () => {
    expect(await client.post('/distance', shortTexts)).toMatchObject({ status: 200, body: '{"distance":3}' });
  });

  test('answers nobody else before the comparison is over', async () => {
    const answers = await pingBesideComparison();
    expect(answers.slice(0, 2).sort()).toEqual(['distance 200', 'pong']);
  });
});

describe('examples/unblocked.mjs', () => {
  running('unblocked.mjs');

  test('computes the distance of two texts', async () => {
    expect(await client.post('/distance', shortTexts)).toMatchObject({ status: 200, body: '{"distance":3}' });
  });

  test('answers a hundred others while the comparison runs', async () => {
    const answers = await pingBesideComparison();
    expect(answers.slice(0, 100)).toEqual(Array(100).fill('pong'));
    expect(answers[100]).toBe('distance 200');
  });

  test('refuses texts that are too long', async () => {
    const answer = await client.post('/distance', { a: 'x'.repeat(60_000), b: '' });
    expect(answer.status).toBe(413);
  });
});

describe('examples/task-module/server.mjs', () => {
  running('task-module/server.mjs');

  const text = 'Cats sleep. Cats hunt mice at night, and mice fear cats. It rains. Dogs bark. Mice eat cheese.';

  test('answers with what the module computes', async () => {
    const answer = await client.post('/summaries', text);
    expect(answer.status).toBe(200);
    expect(JSON.parse(answer.body)).toContain('Cats hunt mice at night, and mice fear cats.');
    expect(JSON.parse(answer.body)).not.toContain('It rains.');
  });

  test('gets a Map from a worker as a Map', async () => {
    const answer = await client.post('/words', text);
    expect(JSON.parse(answer.body)).toMatchObject({ cats: 3, mice: 3, cheese: 1 });
  });

  test('streams progress before the result', async () => {
    const answer = await client.post('/summaries/live', 'One more sentence. '.repeat(250));
    const lines = answer.body
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line));
    expect(lines).toEqual([
      { done: 0, of: 250 },
      { done: 100, of: 250 },
      { done: 200, of: 250 },
      { summary: Array(3).fill('One more sentence.') },
    ]);
  });

  test('answers what is too big with problem details', async () => {
    const answer = await client.post('/summaries', 'x'.repeat(2 ** 20 + 1));
    expect(answer).toMatchObject({
      status: 413,
      headers: { 'content-type': 'application/problem+json; charset=utf-8' },
    });
  });
});

describe('examples/custom-errors.mjs', () => {
  running('custom-errors.mjs');

  const endless = { pattern: '^(a+)+$', text: `${'a'.repeat(50)}!` };

  test('answers the deadline in its own words, and the worker is free again', async () => {
    const answer = await client.post('/search', endless);
    expect(answer.status).toBe(504);
    expect(JSON.parse(answer.body).error).toEqual({
      status: 504,
      code: 'ERR_UNBLOCK_TIMEOUT',
      message: 'That took too long. Try a simpler pattern.',
      requestId: answer.headers['x-request-id'],
    });
    expect(await client.post('/search', { pattern: 'a', text: 'abc' })).toMatchObject({ status: 200, body: '["a"]' });
  });

  test('answers a full queue in its own words, with Retry-After', async () => {
    const third = new Client(app.url);
    const all = await Promise.all([client, other, third].map((one) => one.post('/search', endless)));
    third.close();
    expect(all.map(({ status }) => status).sort()).toEqual([503, 504, 504]);
    const refused = all.find(({ status }) => status === 503);
    const seconds = Number(refused?.headers['retry-after']);
    expect(seconds).toBeGreaterThanOrEqual(1);
    expect(JSON.parse(refused?.body ?? '')).toMatchObject({
      error: { code: 'ERR_UNBLOCK_QUEUE_FULL', message: `We are busy. Try again in ${seconds} s.` },
    });
  });

  test('answers what is too big in its own words', async () => {
    const answer = await client.post('/search', { pattern: 'a', text: 'a'.repeat(20_000) });
    expect(answer.status).toBe(413);
    expect(JSON.parse(answer.body).error.message).toBe('Please send no more than 10240 bytes.');
  });

  test("answers a task's own error without a look inside", async () => {
    const answer = await client.post('/search', { pattern: '(', text: '' });
    expect(answer.status).toBe(500);
    expect(JSON.parse(answer.body).error).toMatchObject({ message: 'Something went wrong.' });
  });
});

describe('examples/chain/server.mjs', () => {
  running('chain/server.mjs');

  const services = ['forecast', 'shop', 'stock'];
  const begun = /^(?<name>\w+) begins, (?<seconds>[\d.]+) s left$/;
  const ended = /^(?<name>\w+) ends: (?<how>\w+)$/;

  /** Three lines of the app, by the service that printed each. */
  async function nextOfEach(pattern: RegExp) {
    const lines = [await app.nextLine(), await app.nextLine(), await app.nextLine()];
    const all = lines.map((line) => pattern.exec(line ?? '')?.groups ?? { name: `unexpected line: ${line}` });
    expect(all.map(({ name }) => name).sort()).toEqual(services);
    return new Map(all.map((groups) => [groups.name, groups]));
  }

  /** The one that computes has its CPU back: it would not answer before the long computation was over. */
  async function expectAnswer() {
    const { status, body } = await other.get('/report?days=1');
    expect([status, JSON.parse(body)]).toEqual([200, { demand: expect.any(Number), stock: 120, price: 9 }]);
    for (const { seconds } of (await nextOfEach(begun)).values()) expect(Number(seconds)).toBeGreaterThan(9);
    for (const { how } of (await nextOfEach(ended)).values()) expect(how).toBe('200');
  }

  test('answers through all three', expectAnswer);

  test('stops the work of all three when the client leaves', async () => {
    const report = client.send('GET', '/report?days=100000');
    const failed = expect(report.answer).rejects.toThrow();
    await nextOfEach(begun);
    client.close();
    await failed;
    const all = await nextOfEach(ended);
    expect([...all.values()].map(({ how }) => how)).toEqual(Array(3).fill('ERR_UNBLOCK_CLIENT_CLOSED'));
    await expectAnswer();
  });

  test('stops the work of all three when the time is over that the client says it has', async () => {
    const patience = { 'x-envoy-expected-rq-timeout-ms': 1_500 };
    const began = performance.now();
    const { status } = await client.send('GET', '/report?days=100000', undefined, patience).answer;
    const took = performance.now() - began;
    expect(status).toBe(504);
    expect(took).toBeGreaterThan(1_000);
    expect(took).toBeLessThan(9_000);
    const left = await nextOfEach(begun);
    const seconds = ['shop', 'stock', 'forecast'].map((name) => Number(left.get(name)?.seconds));
    expect(seconds).toEqual(seconds.toSorted((a, b) => b - a));
    expect(seconds[0]).toBeLessThanOrEqual(1.5);
    for (const { how } of (await nextOfEach(ended)).values()) expect(how).toMatch(/^ERR_UNBLOCK_\w+$|^504$/);
    await expectAnswer();
  });
});

describe('examples/graceful-shutdown.mjs', () => {
  running('graceful-shutdown.mjs');

  test('finishes what is under way, then ends by itself', async () => {
    await Promise.all([client.get('/'), other.get('/')]);
    const count = client.send('GET', '/primes/3000000');
    await count.sent;
    await other.get('/'); // Answered after the count was received.
    const events: string[] = [];
    const answered = count.answer.then(({ status, body }) => events.push(`${status} ${body}`));
    app.kill('SIGTERM');
    for (let line = await app.nextLine(); line !== undefined; line = await app.nextLine()) events.push(line);
    await answered;
    expect(events).toEqual(['Shutting down', '200 216816', 'Bye']);
    expect(await app.exited).toBe(0);
  });
});

describe('examples/password-hashing/server.mjs', () => {
  running('password-hashing/server.mjs');

  test('knows its users by their passwords, and answers others while it computes', async () => {
    const ada = { name: 'Ada', password: 'a secret' };
    expect((await client.post('/users', ada)).status).toBe(201);
    await other.get('/ping');
    const answers: unknown[] = [];
    const login = client.send('POST', '/login', ada);
    const loggedIn = login.answer.then(({ status }) => answers.push(status));
    await login.sent;
    answers.push((await other.get('/ping')).body);
    await loggedIn;
    expect(answers).toEqual(['pong', 204]);
    expect((await client.post('/login', { ...ada, password: 'a guess' })).status).toBe(401);
  });
});

describe('examples/image-resizing/server.mjs', () => {
  running('image-resizing/server.mjs');

  const upload = (image: Buffer, width: number) =>
    client.send('POST', `/thumbnails?width=${width}`, image, { 'Content-Type': 'image/png' }).answer;
  const blank = (size: number) =>
    sharp({ create: { width: size, height: size, channels: 3, background: 'red' } })
      .png()
      .toBuffer();

  test('answers with an image of the width asked for', async () => {
    const answer = await upload(await blank(300), 100);
    expect(answer).toMatchObject({ status: 200, headers: { 'content-type': 'image/webp' } });
    expect(await sharp(answer.bytes).metadata()).toMatchObject({ format: 'webp', width: 100, height: 100 });
  });

  test('lives on after an image that is too big to be opened', async () => {
    expect((await upload(await blank(5000), 100)).status).toBe(500);
    expect((await upload(await blank(10), 10)).status).toBe(200);
  });
});

describe('examples/pdf-report/server.mjs', () => {
  running('pdf-report/server.mjs');

  test('sends a whole PDF, and tells how far it has come', async () => {
    const rows = Array.from({ length: 100 }, (_, n) => `Row ${n}`);
    const answer = await client.post('/reports', { title: 'Sales', rows });
    expect(answer).toMatchObject({ status: 200, headers: { 'content-type': 'application/pdf' } });
    expect(answer.body).toMatch(/^%PDF-.*%%EOF\s*$/s);
    expect([await app.nextLine(), await app.nextLine()]).toEqual(['Sales: 40%', 'Sales: 80%']);
  });
});

describe('examples/csv-import/server.mjs', () => {
  running('csv-import/server.mjs');

  const importCsv = (rows: string[]) =>
    client.send('POST', '/imports', ['product,amount', ...rows].join('\n'), { 'Content-Type': 'text/csv' }).answer;

  test('streams progress, and the totals at the end', async () => {
    const { body } = await importCsv(Array.from({ length: 2500 }, (_, n) => `${n % 2 ? 'tea' : 'coffee'},2`));
    const lines = body
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line));
    expect(lines).toEqual([
      { done: 1000, of: 2500 },
      { done: 2000, of: 2500 },
      { rows: 2500, totals: { coffee: 2500, tea: 2500 } },
    ]);
  });

  test('says which row is wrong', async () => {
    const answer = await importCsv(['tea,2', 'tea,much']);
    expect(answer.status).toBe(422);
    expect(JSON.parse(answer.body)).toMatchObject({ detail: 'Row 2: "much" is no amount' });
  });
});

/** Compiles an example as its README command does; a type that is wrong fails the test that runs it. */
function compiled(example: string): void {
  beforeAll(() => {
    const tsc = path.join(ROOT, 'node_modules', 'typescript', 'bin', 'tsc');
    execFileSync(process.execPath, [tsc, '-p', path.join(ROOT, 'examples', example)], { stdio: 'inherit' });
  });
}

describe('examples/typescript', () => {
  compiled('typescript');
  running('typescript/build/server.mjs');

  test('answers with what the module computes', async () => {
    const { body } = await client.post('/statistics', 'one two three');
    expect(JSON.parse(body)).toMatchObject({ words: 3, longest: 'three', millisecondsLeft: expect.any(Number) });
  });

  test('answers its errors in its own words', async () => {
    const { status, body } = await client.post('/statistics', 'x'.repeat(2 ** 20 + 1));
    expect([status, JSON.parse(body)]).toEqual([413, { message: 'At most 1048576 bytes, please' }]);
  });
});

describe('examples/nestjs', () => {
  compiled('nestjs');
  running('nestjs/build/main.mjs', 'SIGTERM'); // Nest ends its process by the signal that it was told to end by.

  test('answers with what a worker computes', async () => {
    expect(JSON.parse((await client.get('/primes/100')).body)).toEqual({ below: 100, count: 25 });
  });

  test('stops what takes too long, and its filter answers with the code', async () => {
    const { status, body } = await client.get('/primes/1000000000');
    expect([status, JSON.parse(body)]).toEqual([504, { status: 504, code: 'ERR_UNBLOCK_TIMEOUT' }]);
  });

  test('refuses what is too big with its code', async () => {
    const { status, body } = await client.post('/primes/10', 'x'.repeat(102_401));
    expect([status, JSON.parse(body)]).toEqual([413, { status: 413, code: 'ERR_UNBLOCK_TOO_LARGE' }]);
  });

  test("leaves Nest's own errors as they are", async () => {
    expect((await client.get('/primes/many')).status).toBe(400);
  });
});
