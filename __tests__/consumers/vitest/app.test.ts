import { createHash } from 'node:crypto';
import express from 'express';
import { closePools, offload, problemDetails, timeout } from 'express-unblock';
import { afterAll, expect, test } from 'vitest';
import { shout } from './words';

afterAll(() => closePools());

const loads = offload(async (text: string) => {
  const { basename } = await import('node:path');
  const { shout } = await import('./words');
  const express = await import('express');
  return [shout(basename(text)), typeof express.default];
});
const tasks = offload.module<typeof import('./tasks')>(new URL('./tasks.ts', import.meta.url));

test('a function imports packages, and files by whatever Vite calls them', async () => {
  expect(await loads('/a/b')).toEqual(['B', 'function']);
});

test('a module of TypeScript runs in a worker', async () => {
  const { words, pid } = await tasks.count('to be or not to be');
  expect(words).toBe(6);
  expect(pid).not.toBe(process.pid);
});

test('what a function uses of the file is refused by the names that the file has for it', () => {
  const hash = (text: string) => createHash('sha256').update(shout(text)).digest('hex');
  expect(() => offload(hash)).toThrow(/uses "createHash", "shout" from outside of itself/);
  expect(() => offload(() => import.meta.url)).toThrow(/uses "import\.meta"/);
});

test('a deadline ends what was offloaded, and its app answers', async () => {
  const endless = offload(() => {
    for (;;);
  });
  const app = express();
  app.get(
    '/',
    timeout(300),
    endless.handler(() => []),
  );
  app.use(problemDetails());
  const server = app.listen(0);
  const { port } = server.address() as import('node:net').AddressInfo;
  const response = await fetch(`http://localhost:${port}`);
  server.close();
  expect([response.status, ((await response.json()) as { code: string }).code]).toEqual([504, 'ERR_UNBLOCK_TIMEOUT']);
});
