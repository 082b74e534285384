import { once } from 'node:events';
import { connect } from 'node:net';
import { setTimeout as wait } from 'node:timers/promises';
import { JsonShape } from '../dist/request/json-shape.js';
import { start } from './lab/child.mjs';
import { compareThroughput, throughputPanels, throughputTable } from './lab/closed-loop.mjs';
import { figure, spread, summary } from './lab/stats.mjs';

const UPLOADERS = [
  { variant: 'parser', name: 'express.json()' },
  { variant: 'ours', name: 'limitInput()', ours: true },
];
const GUARDS = [
  { variant: 'parser', name: 'express.json()' },
  { variant: 'ours', name: 'limitInput()', ours: true },
  { variant: 'shape', name: 'limitInput(json)', ours: true },
];
const UPLOAD = 5_000_000;
const MB = 1_000_000;

/** How soon does a client hear that its upload is too large, and what do the others pay for the guard? */
export async function measure({ quick, progress }) {
  const uploads = await measureUploads({ rounds: quick ? 1 : 5, lasting: quick ? 300 : 2000, progress });
  const small = await compareThroughput({
    app: 'limit-input.mjs',
    variants: GUARDS,
    request: {
      method: 'POST',
      headers: { 'Content-Type': 'application/json' },
      body: JSON.stringify({
        name: 'Ada',
        tags: ['a', 'b'],
        address: { city: 'London', lines: ['12 St James’s Square'] },
      }),
    },
    rounds: quick ? 2 : 15,
    amount: quick ? 300 : 5000,
    progress,
  });
  progress('JSON shape');
  const scans = measureShape(quick ? 5 : 200);

  return {
    title: 'limitInput: an early refusal, and its price for the others',
    how: `A client sends 5 MB in two seconds to a route with a limit of 100 kB; the time counts from the end of its head to
      the end of the complete 413. Small bodies: 120 bytes of JSON, 32 connections, each server in its own process on one
      core, taking turns; all of them parse with express.json({ limit }) in the end, and limitInput(json) looks at depth
      and keys before. Shape: documents of 1 MB in chunks of 64 KiB. Medians, with the middle half in brackets.`,
    packages: ['express', 'body-parser', 'autocannon'],
    tables: [
      {
        heading: 'A slow upload of 5 MB against a limit of 100 kB',
        columns: ['', 'ms until the 413', 'bytes taken in before it'],
        rows: uploads.map(({ name, ms, taken }) => [name, spread(ms), figure(taken.value)]),
      },
      { heading: 'Small bodies that pass', ...throughputTable(small) },
      {
        heading: 'Looking at the shape of JSON',
        columns: ['', 'MB/s', 'JSON.parse of the same, MB/s'],
        rows: scans.map(({ name, scan, parse }) => [name, spread(scan), spread(parse)]),
      },
    ],
    panels: [
      { title: 'Milliseconds until the 413 (less is better)', rows: uploads.map((row) => ({ ...row, ...row.ms })) },
      { title: 'Megabytes taken in before it', rows: uploads.map((row) => ({ ...row, ...scaled(row.taken, 1 / MB) })) },
      ...throughputPanels(small),
    ],
  };
}

async function measureUploads({ rounds, lasting, progress }) {
  const servers = [];
  try {
    for (const { variant } of UPLOADERS) {
      const server = await start('limit-input.mjs', [variant]);
      servers.push(server);
      await upload(server.port, 'chunked', 100); // The first request of a process is slower.
    }
    const rows = [];
    for (const framing of ['Content-Length', 'chunked']) {
      const taken = UPLOADERS.map(() => []);
      for (let round = 0; round < rounds; round++) {
        for (const [at, { port }] of servers.entries()) {
          progress(`${framing} upload to ${UPLOADERS[at].name}, round ${round + 1} of ${rounds}`);
          taken[at].push(await upload(port, framing, lasting));
        }
      }
      for (const [at, { name, ours }] of UPLOADERS.entries()) {
        const ms = summary(taken[at].map((one) => one.ms));
        rows.push({ name: `${name}, ${framing}`, ours, ms, taken: summary(taken[at].map((one) => one.bytes)) });
      }
    }
    return rows;
  } finally {
    for (const server of servers) await server.stop();
  }
}

/** Sends at a steady pace and reads beside it, as a client does that looks for an early answer. */
async function upload(port, framing, lasting) {
  const socket = connect(port, '127.0.0.1');
  await once(socket, 'connect');
  socket.on('error', () => {}); // Sending on after the server closed.
  let answer = '';
  let answeredAt;
  socket.setEncoding('latin1').on('data', (text) => {
    answer += text;
    if (answeredAt === undefined && isComplete(answer)) answeredAt = performance.now();
  });
  const ended = new Promise((resolve) => socket.once('close', resolve));

  const chunked = framing === 'chunked';
  const length = chunked ? 'Transfer-Encoding: chunked' : `Content-Length: ${UPLOAD}`;
  socket.write(`POST / HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n${length}\r\n\r\n`);
  const sentAt = performance.now();
  const pieces = 50;
  const piece = Buffer.alloc(UPLOAD / pieces, ' ');
  for (let n = 1; n <= pieces && !socket.destroyed && answeredAt === undefined; n++) {
    if (chunked) socket.write(`${piece.length.toString(16)}\r\n`);
    socket.write(piece);
    if (chunked) socket.write(n === pieces ? '\r\n0\r\n\r\n' : '\r\n');
    await Promise.race([wait((lasting * n) / pieces - (performance.now() - sentAt)), ended]);
  }
  for (let n = 0; n < 500 && answeredAt === undefined && !socket.destroyed; n++) await wait(10);
  socket.destroy();
  if (answeredAt === undefined || !answer.startsWith('HTTP/1.1 413'))
    throw new Error(`No 413 but ${answer || 'nothing'}`);
  return { ms: answeredAt - sentAt, bytes: Number(/^x-taken-in: (\d+)/im.exec(answer)[1]) };
}

function isComplete(answer) {
  const head = answer.indexOf('\r\n\r\n');
  const length = /^content-length: (\d+)/im.exec(answer);
  return head >= 0 && length !== null && answer.length >= head + 4 + Number(length[1]);
}

/** In this process: nothing but a loop over bytes. */
function measureShape(times) {
  const documents = {
    'records of numbers and short strings': Array.from({ length: 12_000 }, (_, id) => ({
      id,
      name: `user ${id}`,
      tags: ['a', 'b'],
      score: id / 7,
      active: true,
    })),
    'one long text': { text: 'It was a dark and stormy night; the rain fell in torrents. '.repeat(17_000) },
    'numbers only': Array.from({ length: 150_000 }, (_, n) => n * 7),
  };
  return Object.entries(documents).map(([name, document]) => {
    const bytes = Buffer.from(JSON.stringify(document));
    const chunks = [];
    for (let at = 0; at < bytes.length; at += 65_536) chunks.push(bytes.subarray(at, at + 65_536));
    const scan = [];
    const parse = [];
    for (let n = 0; n < times; n++) {
      scan.push(
        speed(bytes.length, () => {
          const shape = new JsonShape({ depth: 32, keys: 1_000_000 });
          for (const chunk of chunks) if (shape.scan(chunk) !== undefined) throw new Error('refused');
        }),
      );
      parse.push(speed(bytes.length, () => JSON.parse(bytes.toString())));
    }
    return { name, scan: summary(scan), parse: summary(parse) };
  });
}

function speed(bytes, work) {
  const from = performance.now();
  work();
  return bytes / MB / ((performance.now() - from) / 1000);
}

const scaled = ({ value, low, high }, by) => ({ value: value * by, low: low * by, high: high * by });
