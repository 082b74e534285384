import { deadLinks, Page, ReadersFolder } from '../support/markdown';

jest.setTimeout(30_000);

const page = new Page('docs/watch.md');
let reader: ReadersFolder;
beforeAll(() => {
  reader = new ReadersFolder();
});
afterEach(() => reader.stop());
afterAll(() => reader.remove());

describe('docs/watch.md', () => {
  it('links to nothing that is not there', () => {
    expect(deadLinks(page)).toEqual([]);
  });

  it('has an app whose slow function is named', async () => {
    const { app, client } = await reader.run(page.block('Starting it 1'));
    const words = Array.from({ length: 8000 }, (_, n) => `word ${n}`);
    client.post('/search', { words }).catch(() => {});
    expect(await app.nextLine()).toMatch(/^express-unblock: POST \/search blocked .* in compare \(app\.js:\d+\)/);
  });

  it('has a subscriber that hears of every block', async () => {
    const { app, client } = await reader.run(page.block('Every block, for your metrics 1'));
    for (let n = 0; n < 2; n++) {
      client.get('/sum').catch(() => {});
      const event = JSON.parse((await app.nextLine()) ?? '');
      expect(event).toMatchObject({ route: 'GET /sum', advice: 'wrap it with offload()' });
      expect(event.stack).toMatch(/^ {4}at \S+ \(.*app\.js:\d+:\d+\)$/m);
    }
  });

  it('has a process that ends where it hangs', async () => {
    const { app, client } = await reader.run(page.block('A process that hangs 1'));
    client.get('/endless').catch(() => {});
    expect(await app.exited).toBe(70);
  });
});
