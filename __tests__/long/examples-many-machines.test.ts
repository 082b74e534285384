import path from 'node:path';
import { type AppProcess, Client, startApp } from '../support/app-process';
import { describeWithRedis } from '../support/redis';

jest.setTimeout(60_000);

describeWithRedis('examples/many-machines/start.mjs', () => {
  let app: AppProcess;
  let clients: Client[];

  beforeAll(async () => {
    app = await startApp(path.join(__dirname, '..', '..', 'examples', 'many-machines', 'start.mjs'));
    clients = Array.from({ length: 8 }, () => new Client(app.url));
  });

  afterAll(async () => {
    for (const client of clients) client.close();
    app.kill('SIGTERM');
    expect(await app.exited).toBe(0);
  });

  test('has two services count primes', async () => {
    const counters = new Set<string>();
    for (let round = 0; counters.size < 2 && round < 20; round++) {
      const answers = await Promise.all(clients.map((client) => client.get('/primes/2000000')));
      for (const { status, body } of answers) {
        const { count, countedBy } = JSON.parse(body);
        expect([status, count]).toEqual([200, 148_933]);
        counters.add(countedBy);
      }
    }
    expect(counters.size).toBe(2);
    // Each service tells of itself once in a while, and a busy machine may be late with that.
    const seen = async () => JSON.parse((await (clients[0] as Client).get('/workers')).body);
    let stats = await seen();
    for (const end = Date.now() + 20_000; stats.workers !== 2 && Date.now() < end; stats = await seen());
    expect(stats).toMatchObject({ workers: 2, failed: 0 });
  });

  test('streams progress before the result', async () => {
    const { body } = await (clients[0] as Client).get('/primes/300000/live');
    const lines = body
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line));
    expect(lines.at(-2)).toEqual({ at: 200_000, of: 300_000 });
    expect(lines.at(-1)).toMatchObject({ count: 25_997 });
  });
});
