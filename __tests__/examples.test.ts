import path from 'node:path';
import { type AppProcess, Client, startApp } from './support/app-process';

jest.setTimeout(60_000);

let app: AppProcess;
let client: Client;
let other: Client;

/** Each describe runs one example, as its users do, and ends it as their platform does. */
function running(example: string) {
  beforeEach(async () => {
    app = await startApp(path.join(__dirname, '..', 'examples', example));
    client = new Client(app.url);
    other = new Client(app.url);
  });

  afterEach(async () => {
    client.close();
    other.close();
    app.kill('SIGTERM');
    expect(await app.exited).toBe(0);
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
