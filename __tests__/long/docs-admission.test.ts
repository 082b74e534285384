import { deadLinks, Page, ReadersFolder } from '../support/markdown';

jest.setTimeout(60_000);

const page = new Page('docs/admission.md');
let reader: ReadersFolder;

beforeAll(() => {
  reader = new ReadersFolder();
});
afterEach(() => reader.stop());
afterAll(() => reader.remove());

const words = (count: number) => Array.from({ length: count }, (_, n) => `word${n}`);

test('the first example answers what it can do in time, and refuses what it cannot', async () => {
  const { client } = await reader.run(page.block('Refusing what will not be done in time 1'));
  const ask = async (count: number) => {
    const { status, body } = await client.post('/similar', words(count));
    return { status, answer: JSON.parse(body) };
  };
  // On a machine that is busy with something else, it takes some more runs to be sure. Of short ones, most of the time
  // is that of the way to the worker, which tells nothing of long ones.
  let last = await ask(1000);
  for (let n = 1; last.status !== 413 && n < 100; n++)
    last = await ask(n % 12 === 11 ? 300_000 : 1000 * 1.4 ** (n % 7));
  expect(last).toMatchObject({ status: 413, answer: { code: 'ERR_UNBLOCK_TOO_SLOW', size: 300_000 } });
  expect(await client.post('/similar', ['abba', 'area', 'b'])).toMatchObject({ status: 200, body: '5' });
});

test("'observe' counts, and the figures are those of the page", async () => {
  const { client } = await reader.run(page.block("Begin with 'observe' 1"));
  const { body } = await client.send('POST', '/words', 'two words', { 'content-type': 'text/plain' }).answer;
  expect(body).toBe('2');
  const [figures] = JSON.parse((await client.get('/admission')).body);
  expect(figures).toMatchObject({ runs: 1, wouldRefuse: { calls: 0, inTime: 0 } });
  for (const name of Object.keys(figures)) expect([name, page.text.includes(`\`${name}\``)]).toEqual([name, true]);
});

test('limitInput() asks what is managed, and has a limit of its own while that is not known', async () => {
  const { client } = await reader.run(page.block('Before anything is read 1'));
  expect(await client.post('/lines', 'one\ntwo')).toMatchObject({ status: 200, body: '2' });
  expect((await client.post('/lines', 'x'.repeat(5_000_001))).status).toBe(413);
});

test('no link leads nowhere', () => {
  expect(deadLinks(page)).toEqual([]);
});
