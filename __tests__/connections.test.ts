import { mkdtempSync, rmSync } from 'node:fs';
import http from 'node:http';
import https from 'node:https';
import { connect, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { Duplex } from 'node:stream';
import tls from 'node:tls';
import { limitInput, timeout } from 'express-unblock';
import { certificate } from './support/certificate';
import { CHUNKED, chunk, closeAll, connectRaw, type Express, expressVersions, head, serve } from './support/raw-http';

const folder = mkdtempSync(path.join(tmpdir(), 'connections-'));
const NO_SOCKET = 'a stream that is no socket';

afterEach(closeAll);
afterAll(() => rmSync(folder, { recursive: true }));

/** A server, and how its clients connect. */
type Way = (app: http.RequestListener) => Promise<() => Socket>;
const ways: [string, Way][] = [
  [
    'TCP',
    async (app) => {
      const port = await serve(app);
      return () => connect({ port, allowHalfOpen: true });
    },
  ],
  [
    'a unix socket',
    async (app) => {
      const address = path.join(folder, 'socket');
      await serve(http.createServer(app), address);
      return () => connect({ path: address, allowHalfOpen: true });
    },
  ],
  [
    NO_SOCKET,
    async (app) => {
      const server = http.createServer(app);
      const [onConnection] = server.listeners('connection');
      server.removeAllListeners('connection');
      server.on('connection', (socket) => {
        onConnection?.call(server, Duplex.from({ readable: socket, writable: socket }));
      });
      const port = await serve(server);
      return () => connect({ port, allowHalfOpen: true });
    },
  ],
  [
    'TLS',
    async (app) => {
      const port = await serve(https.createServer(certificate, app) as unknown as http.Server);
      return () => tls.connect({ port, rejectUnauthorized: false });
    },
  ],
];

function makeApp(express: Express) {
  const app = express();
  app.get('/slow', timeout(30), () => {});
  app.get('/half', timeout(60, { until: 'response' }), (_req, res) => void res.write('half of it'));
  app.post('/', limitInput(100), express.raw({ type: () => true }), (req, res) => void res.send(`${req.body.length}`));
  return app;
}

describe.each(expressVersions)('%s', (_, express) => {
  describe.each(ways)('a connection over %s', (way, open) => {
    it('gets a 504 and serves on', async () => {
      const client = await connectRaw((await open(makeApp(express)))());
      for (let i = 0; i < 2; i++) {
        await client.send(head('GET', '/slow'));
        expect((await client.answer()).status).toBe(504);
      }
    });

    it.each([
      ['with a Content-Length', { 'Content-Length': 200 }, ['x'.repeat(200)]],
      ['chunked', CHUNKED, [chunk('x'.repeat(200)), chunk('')]],
    ])('gets a 413 and serves on: %s', async (_, headers, body) => {
      const client = await connectRaw((await open(makeApp(express)))());
      await client.send(head('POST', '/', headers), ...body);
      expect((await client.answer()).status).toBe(413);
      await client.send(head('POST', '/', { 'Content-Length': 2 }), 'ok');
      expect(await client.answer()).toMatchObject({ status: 200, body: '2' });
    });

    it('is not told to send what is too large, except where it is no socket', async () => {
      const client = await connectRaw((await open(makeApp(express)))());
      await client.send(head('POST', '/', { 'Content-Length': 200, Expect: '100-continue' }));
      if (way === NO_SOCKET) {
        expect((await client.answer()).status).toBe(100);
        await client.send('x'.repeat(200));
      }
      expect((await client.answer()).status).toBe(413);
    });

    it.each(['1.0', '1.1'])(
      'is cut off in the middle of an answer over HTTP/%s, and the server serves on',
      async (v) => {
        const connectTo = await open(makeApp(express));
        const socket = connectTo();
        socket.write(`GET /half HTTP/${v}\r\nHost: localhost\r\n\r\n`);
        let text = '';
        socket.on('data', (data) => {
          text += data;
        });
        socket.on('error', () => {}); // A reset, where that alone tells the client.
        socket.on('end', () => socket.end());
        await new Promise((resolve) => socket.on('close', resolve));
        expect(text).toMatch(/half of it(\r\n)?$/);
        const client = await connectRaw(connectTo());
        await client.send(head('POST', '/', { 'Content-Length': 2 }), 'ok');
        expect(await client.answer()).toMatchObject({ status: 200, body: '2' });
      },
    );
  });
});
