import { deadLinks, Page, ReadersFolder } from './support/markdown';

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
  for (let n = 0; n < 16; n++) {
    const { status } = await client.post('/similar', words(100 * 1.4 ** (n % 8)));
    expect(status).toBe(200);
  }
  const { status, body } = await client.post('/similar', words(400_000));
  expect([status, JSON.parse(body)]).toMatchObject([413, { code: 'ERR_UNBLOCK_TOO_SLOW', size: 400_000 }]);
});

test("'observe' counts, and the figures are those of the page", async () => {
  const { client } = await reader.run(page.block("Begin with 'observe' 1"));
  const { body } = await client.send('POST', '/words', 'two words', { 'content-type': 'text/plain' }).answer;
  expect(body).toBe('2');
  const [figures] = JSON.parse((await client.get('/admission')).body);
  expect(figures).toMatchObject({ runs: 1, wouldRefuse: { calls: 0, inTime: 0 } });
  for (const name of Object.keys(figures)) expect([name, page.text.includes(`\`${name}\``)]).toEqual([name, true]);
});

test('no link leads nowhere', () => {
  expect(deadLinks(page)).toEqual([]);
});
