import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import http from 'node:http';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { type Browser, chromium, type Page } from 'playwright-core';

jest.setTimeout(180_000);

const SERVER = path.join(__dirname, '..', '..', 'examples', 'demo', 'server.mjs');
const CHROMIUM = [
  process.env.CHROMIUM,
  '/usr/bin/chromium',
  '/usr/bin/chromium-browser',
  '/usr/bin/google-chrome',
  '/usr/bin/google-chrome-stable',
  '/Applications/Chromium.app/Contents/MacOS/Chromium',
  '/Applications/Google Chrome.app/Contents/MacOS/Google Chrome',
].find((file) => file !== undefined && existsSync(file));

if (CHROMIUM === undefined) {
  process.stderr.write(
    'demo.test: no Chromium found; install it (apt-get install chromium) or set CHROMIUM=/path to run this test\n',
  );
}

async function startDemo() {
  const server = spawn(process.execPath, [SERVER], {
    env: { ...process.env, PORT: '0' },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const exited = once(server, 'exit');
  const [line] = await once(createInterface(server.stdout), 'line');
  expect(line).toMatch(/^Demo: http:\/\/localhost:\d+\/$/);
  return {
    url: line.slice('Demo: '.length) as string,
    async stop() {
      server.kill('SIGTERM');
      expect(await exited).toEqual([0, null]);
    },
  };
}

let demo: Awaited<ReturnType<typeof startDemo>>;
let url: string;

beforeAll(async () => {
  demo = await startDemo();
  url = demo.url;
});

afterAll(() => demo.stop());

describe('the routes', () => {
  /** Resolves with the head of the answer; each request has a connection of its own. */
  function request(method: string, target: string, body?: string): Promise<http.IncomingMessage> {
    return new Promise((resolve, reject) => {
      http
        .request(new URL(target, url), { method, agent: false, headers: { 'Content-Type': 'text/plain' } }, resolve)
        .on('error', reject)
        .end(body);
    });
  }

  async function read(response: http.IncomingMessage): Promise<string> {
    return Buffer.concat(await response.toArray()).toString();
  }

  /** Resolves when the server has said `event` of this run; the stream is open when the first promise resolves. */
  async function follow(server = url) {
    const response = await request('GET', `${server}events`);
    const waiting: { event: string; run: string; resolve: () => void }[] = [];
    let event = '';
    createInterface(response).on('line', (line) => {
      if (line.startsWith('event: ')) event = line.slice('event: '.length);
      if (!line.startsWith('data: ')) return;
      const { run } = JSON.parse(line.slice('data: '.length));
      for (const each of waiting) if (each.event === event && each.run === run) each.resolve();
    });
    return {
      heard: (event: string, run: string) => new Promise<void>((resolve) => waiting.push({ event, run, resolve })),
      close: () => response.destroy(),
    };
  }

  test('beside the blocking route, a ping is answered only after the comparison is over', async () => {
    const text = await read(await request('GET', '/texts/long'));
    const events = await follow();
    const started = events.heard('started', 'here');
    const answers: string[] = [];

    const comparison = request('POST', '/blocking?run=here', text).then((response) => {
      answers.push('comparison');
      return response;
    });
    await started;
    const ping = request('GET', '/ping').then((response) => {
      answers.push('ping');
      return response;
    });

    expect(JSON.parse(await read(await comparison))).toMatchObject({ sentences: 3000, compared: 4_498_500 });
    expect(await read(await ping)).toBe('pong');
    expect(answers).toEqual(['comparison', 'ping']);
    events.close();
  });

  test('beside the offloaded route, a hundred pings are answered while the comparison runs', async () => {
    const text = await read(await request('GET', '/texts/long'));
    const events = await follow();
    const running = events.heard('progress', 'there');
    const answers: string[] = [];

    const comparison = request('POST', '/offloaded?run=there&deadline=60s', text).then((response) => {
      answers.push('comparison');
      return response;
    });
    await running;
    for (let i = 0; i < 100; i++) {
      await read(await request('GET', '/ping'));
      answers.push('ping');
    }

    expect(JSON.parse(await read(await comparison))).toMatchObject({ sentences: 3000, compared: 4_498_500 });
    expect(answers).toEqual([...Array(100).fill('ping'), 'comparison']);
    events.close();
  });

  test('both find the same pairs in a text written by hand', async () => {
    const text = await read(await request('GET', '/texts/short'));
    const here = JSON.parse(await read(await request('POST', '/blocking', text)));
    const there = JSON.parse(await read(await request('POST', '/offloaded', text)));

    expect(here.pairs[0]).toMatchObject({
      a: { text: 'The fishermen carried the books up to the loft, hand over hand, and not a single volume was lost.' },
      b: {
        text: 'The books were carried up to the loft by the fishermen, hand over hand, and not one volume was lost.',
      },
    });
    expect(there).toEqual(here);
  });

  test('the server ends when it is told to, and answers what it has begun', async () => {
    const another = await startDemo();
    const text = await read(await request('GET', `${another.url}texts/long`));
    const events = await follow(another.url);
    const running = events.heard('progress', 'last');
    const comparison = request('POST', `${another.url}offloaded?run=last`, text);
    await running;

    await another.stop();
    // Done within the pool's grace, or refused at its end.
    expect([200, 503]).toContain((await comparison).statusCode);
    events.close();
  });
});

(CHROMIUM === undefined ? describe.skip : describe)('the page', () => {
  let browser: Browser;
  let page: Page;
  let elsewhere: string[];
  let failures: Error[];

  beforeAll(async () => {
    browser = await chromium.launch({
      executablePath: CHROMIUM as string,
      args: ['--no-sandbox', '--disable-gpu', '--disable-background-networking'],
    });
  });

  afterAll(() => browser.close());

  beforeEach(async () => {
    page = await browser.newPage();
    page.setDefaultTimeout(90_000);
    elsewhere = [];
    failures = [];
    page.on('request', (request) => request.url().startsWith(url) || elsewhere.push(request.url()));
    page.on('pageerror', (error) => failures.push(error));
    await page.goto(url);
    await page.getByText('3,000 sentences').waitFor();
  });

  afterEach(async () => {
    await page.close();
    expect(failures).toEqual([]);
    expect(elsewhere).toEqual([]);
  });

  async function compare(route: string, deadline = '60 seconds') {
    await page.getByRole('radio', { name: route }).check();
    if (route !== '/blocking') await page.getByLabel('Deadline', { exact: true }).selectOption(deadline);
    await page.getByRole('button', { name: 'Compare' }).click();
  }

  const rows = () => page.locator('#rows tr');
  const cell = (name: string) => rows().first().locator(name).textContent();
  const outcome = (text: string) => rows().first().getByText(text, { exact: true }).waitFor();
  const health = (text: string) => page.locator('#health').getByText(text).waitFor();
  const percentage = () => page.getByText(/[1-9]\d*% of 4,498,500 pairs/).waitFor();
  const pool = (name: string, value: number) =>
    page.locator('#pool div', { hasText: name }).getByText(String(value), { exact: true }).waitFor();

  test('offloads a comparison, shows its progress and its pairs, and is answered all the time', async () => {
    await compare('/offloaded');
    await percentage();
    await pool('Busy', 1);
    await health('Answering');

    await outcome('200');
    // The longest wait of all the time it ran: a second or more would be shown in seconds.
    expect(await cell('.slowest')).toMatch(/^[\d.]+ ms$/);
    expect(await page.locator('#pairs li').count()).toBe(10);
    expect(await page.locator('#pairs li').first().textContent()).toMatch(/^99%/);
  });

  test('shows that a blocking comparison leaves everybody stuck, until it is done', async () => {
    await compare('/blocking');
    await health('Stuck');
    await page.getByText('No progress to show: the thread that would send it is busy.').waitFor();
    expect(await page.getByRole('button', { name: 'Cancel' }).isEnabled()).toBe(true);

    await outcome('200');
    await health('Answering');
    expect(await cell('.slowest')).toMatch(/^[\d.]+ s$/);
  });

  test('names the function that blocked, and offers the cure', async () => {
    await compare('/blocking');
    await outcome('200');
    const place = page.locator('#blocked .place');
    await place.waitFor();
    expect(await place.textContent()).toMatch(
      /^POST \/blocking held the event loop for [\d.]+ s in \w+ \(.*similarity\.mjs:\d+\)$/,
    );
    await page.getByText('The cure: wrap it with offload().').waitFor();

    await page.getByRole('radio', { name: 'Medium' }).check();
    await page.getByText('300 sentences').waitFor();
    await page.getByRole('button', { name: 'Offload it' }).click();
    await outcome('200');
    expect(await cell('.to')).toBe('/offloaded');
    expect(await page.getByRole('radio', { name: '/offloaded' }).isChecked()).toBe(true);
    expect(await page.getByLabel('Deadline', { exact: true }).isEnabled()).toBe(true);
  });

  test('tells what the limited route manages, refuses what takes longer at once, and shows what it expected', async () => {
    const note = page.locator('#about-size');
    await page.getByRole('radio', { name: '/limited' }).check();
    await page.getByLabel('Deadline', { exact: true }).selectOption('1 second');
    await note.getByText(/^With 1 second this server manages about [\d,]+ characters; yours has 287,158\.$/).waitFor();

    await page.locator('#forecast[aria-busy="false"]').waitFor();
    const done = await page.locator('#forecast circle.done').count();
    expect(done).toBeGreaterThan(9);

    const buffer = Buffer.alloc(1_000_000, 'The tide came in late, and nobody saw it. ');
    await page.getByLabel('open a file').setInputFiles({ name: 'text.txt', mimeType: 'text/plain', buffer });
    await note.getByText('yours has 1,000,000').waitFor();
    await compare('/limited', '1 second');
    await outcome('413');
    await rows().first().getByText('Too large: 1,000,000 characters would take longer than').waitFor();
    await page.locator('#forecast circle.refused').waitFor();

    await page.getByRole('radio', { name: 'Medium' }).check();
    await page.getByText('300 sentences').waitFor();
    await compare('/limited');
    await outcome('200');
    await page.locator('#forecast circle.done').nth(done).waitFor();
  });

  test('refuses a text of more than a megabyte before it is read', async () => {
    const buffer = Buffer.alloc(1_200_000, 'The tide came in late, and nobody saw it. ');
    await page.getByLabel('open a file').setInputFiles({ name: 'text.txt', mimeType: 'text/plain', buffer });
    await page.getByText('1,200,000 characters').first().waitFor();
    await compare('/limited');
    await outcome('413');
    await rows().first().getByText('Too large: 1,172 kB, limit 1,024 kB').waitFor();
  });

  test('shows that a comparison ends with its deadline', async () => {
    await compare('/offloaded', '1 second');
    await outcome('504');
    await page.getByText('The work has stopped: no worker is busy.').waitFor();
    await pool('Busy', 0);
  });

  test('stops the work when it is cancelled', async () => {
    await compare('/offloaded');
    await percentage();
    await page.getByRole('button', { name: 'Cancel' }).click();

    await outcome('cancelled');
    await page.getByText('The work has stopped: no worker is busy.').waitFor();
    await pool('Busy', 0);
    expect(await page.getByRole('button', { name: 'Cancel' }).isDisabled()).toBe(true);
    const reached = Number(await page.getByRole('progressbar').getAttribute('value'));
    expect(reached).toBeGreaterThan(0);
    expect(reached).toBeLessThan(1);
  });

  test('shows that of ten at once some find no room to wait', async () => {
    await page.getByLabel('Deadline', { exact: true }).selectOption('60 seconds');
    await page.getByRole('button', { name: 'Send 10 at once' }).click();
    await rows().filter({ hasText: 'No room to wait: try again in' }).nth(5).waitFor();

    await page.getByRole('button', { name: 'Cancel' }).click();
    await page.getByRole('button', { name: 'Cancel', exact: true, disabled: true }).waitFor();
    await pool('Busy', 0);
    await pool('Queued', 0);
    const badges = await page.locator('#rows .badge').allTextContents();
    expect(
      badges.filter((badge) => badge === '503').length + badges.filter((badge) => badge === 'cancelled').length,
    ).toBe(10);
  });

  test('compares a text that was pasted, and one from a file, on a narrow page too', async () => {
    await page.setViewportSize({ width: 360, height: 740 });
    await page.getByLabel('Text to compare').fill('The cat sat on the mat. It rains. On the mat sat the cat.');
    await compare('/limited');
    await page.getByRole('listitem').filter({ hasText: 'On the mat sat the cat.' }).first().waitFor();
    expect(await cell('th small')).toBe('Own text, 0.1 kB');

    const buffer = Buffer.from('A ship left the harbour. Nobody spoke. The harbour was left by a ship.');
    await page.getByLabel('open a file').setInputFiles({ name: 'text.txt', mimeType: 'text/plain', buffer });
    await page.locator('output').getByText('70 characters').waitFor();
    await compare('/offloaded');
    await page.getByRole('listitem').filter({ hasText: 'The harbour was left by a ship.' }).first().waitFor();
    expect(await page.evaluate('document.documentElement.scrollWidth')).toBeLessThanOrEqual(360);
  });
});
