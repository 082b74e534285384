import { deadLinks, Page, ReadersFolder, silentService } from '../support/markdown';

const page = new Page('docs/proxies.md');
let reader: ReadersFolder;
beforeAll(() => {
  reader = new ReadersFolder();
});
afterEach(() => reader.stop());
afterAll(() => reader.remove());

describe('docs/proxies.md', () => {
  it('links to nothing that is not there', () => {
    expect(deadLinks(page)).toEqual([]);
  });

  it('shows an app that keeps the time of its caller, and answers health checks at once', async () => {
    const reports = await silentService();
    const { client } = await reader.run(page.block('Behind a proxy 1'), { env: { REPORTS_URL: reports.url } });
    expect(await client.get('/health')).toMatchObject({ status: 200, body: 'ok' });
    const report = client.send('GET', '/report', undefined, { 'x-envoy-expected-rq-timeout-ms': 2_000 });
    const { status, body } = await report.answer;
    expect([status, JSON.parse(body)]).toMatchObject([504, { code: 'ERR_UNBLOCK_TIMEOUT', timeout: 2_000 }]);
    expect(await reports.left).toBe(true);
  });

  it('shows an error handler that answers with another status', async () => {
    const slow = `app.get('/slow', timeout(50), () => {});\n`;
    const handler = page.block('Cloudflare 1');
    const { client } = await reader.run({ ...handler, code: slow + handler.code });
    const { status, body } = await client.get('/slow');
    expect([status, JSON.parse(body)]).toMatchObject([503, { code: 'ERR_UNBLOCK_TIMEOUT' }]);
  });
});
