// All of it on one machine: node start.mjs. Starts a Redis of its own (redis-server has to be on the PATH), two
// services and the app. compose.yaml does the same with containers.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import net from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const port = await freePort();
const data = mkdtempSync(path.join(tmpdir(), 'many-machines-'));
const redis = spawn(
  'redis-server',
  ['--port', String(port), '--bind', '127.0.0.1', '--save', '', '--maxmemory-policy', 'noeviction', '--dir', data],
  { stdio: 'ignore' },
);
redis.once('error', () => {
  console.error('There is no redis-server on the PATH: apt-get install redis-server, or brew install redis');
  process.exit(1);
});

const env = { ...process.env, REDIS_URL: `redis://127.0.0.1:${port}` };
const start = (file) =>
  spawn(process.execPath, [fileURLToPath(new URL(file, import.meta.url))], { env, stdio: 'inherit' });
const services = [start('./worker.mjs'), start('./worker.mjs')];
const app = start('./app.mjs');

// The app first, which still needs them; Redis last.
process.once('SIGTERM', stop);
process.once('SIGINT', stop);
app.once('exit', stop);

async function stop() {
  for (const children of [[app], services, [redis]]) {
    await Promise.all(children.map(end));
  }
  rmSync(data, { recursive: true, force: true });
  process.exit(app.exitCode ?? 1);
}

async function end(child) {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const gone = once(child, 'exit');
  child.kill('SIGTERM');
  await gone;
}

async function freePort() {
  const server = net.createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address();
  server.close();
  return port;
}
