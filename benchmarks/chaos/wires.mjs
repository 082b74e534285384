import http from 'node:http';
import net from 'node:net';
import { AnswerReader } from './answers.mjs';

/**
 * Two kinds of client with one face: a raw socket that sees every byte, and Node's own with reused connections. Both
 * tell of `answer`, of `continue` and, once, of `end` (the connection is over for this call) through `hear`.
 */
export function openRaw(port, { method, path, headers }, hear) {
  const socket = net.connect({ port, host: '127.0.0.1', allowHalfOpen: true, noDelay: true });
  const reader = new AnswerReader();
  const chunked = headers['transfer-encoding'] !== undefined;
  let over = false;
  const end = (reason) => {
    if (over) return;
    over = true;
    hear('end', reason);
    socket.destroy();
  };
  socket.on('data', (chunk) => {
    if (over) return;
    try {
      const { continued } = reader;
      const answers = reader.read(chunk);
      if (answers.length > 0 || reader.begun) hear('begin');
      for (let n = continued; n < reader.continued; n++) hear('continue');
      for (const answer of answers) hear('answer', answer);
    } catch (error) {
      end(`malformed: ${error.message}`);
    }
  });
  socket.on('end', () => {
    for (const answer of reader.end()) hear('answer', answer);
    end('closed');
  });
  socket.on('error', (error) => end(error.code));
  socket.on('close', () => end('closed'));

  const head = [
    `${method} ${path} HTTP/1.1`,
    'host: localhost',
    ...Object.entries(headers).map((pair) => pair.join(': ')),
  ];
  return {
    ready: new Promise((resolve) => socket.once('connect', resolve).once('close', resolve)),
    headText: `${head.join('\r\n')}\r\n\r\n`,
    writeHead: (text) => socket.write(text),
    write: (piece) => socket.write(chunked ? `${piece.length.toString(16)}\r\n${piece}\r\n` : piece),
    endBody: () => void (chunked && socket.write('0\r\n\r\n')),
    leave(by) {
      if (by === 'reset') socket.resetAndDestroy();
      else if (by === 'halfClose') socket.end();
      else socket.destroy();
    },
    /** Another request on this connection. */
    ping: (id) => socket.write(`GET /ping HTTP/1.1\r\nhost: localhost\r\nx-id: ${id}\r\n\r\n`),
    get rest() {
      return reader.rest;
    },
    close: () => end('done'),
  };
}

/** What the call before was answered on the same connection. */
const lastOn = new WeakMap();

export function openReused(agent, port, { method, path, headers }, hear) {
  const request = http.request({ agent, port, host: '127.0.0.1', method, path, headers });
  let over = false;
  const end = (reason) => {
    if (over) return;
    over = true;
    hear('end', reason);
  };
  let socket;
  request.on('socket', (given) => {
    socket = given;
    if (request.reusedSocket) hear('reuse', lastOn.get(socket));
  });
  request.on('continue', () => hear('continue'));
  request.on('response', (response) => {
    hear('begin');
    const parts = [];
    response.on('data', (part) => parts.push(part));
    response.on('error', (error) => end(error.code));
    response.on('end', () => {
      const { statusCode: status, headers: received } = response;
      hear('answer', { status, headers: received, body: Buffer.concat(parts).toString() });
      lastOn.set(socket, status);
    });
  });
  request.on('error', (error) => end(error.code));
  request.on('close', () => end('closed'));
  return {
    ready: Promise.resolve(),
    writeHead: () => request.flushHeaders(),
    write: (piece) => request.write(piece),
    endBody: () => request.end(),
    leave(by) {
      if (by === 'reset') request.socket?.resetAndDestroy();
      request.destroy();
    },
    rest: '',
    // Whoever has sent everything leaves the connection to the next; others have spoilt it.
    close: () => request.writableFinished || request.destroy(),
  };
}
