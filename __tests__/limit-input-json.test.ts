import { subscribe, unsubscribe } from 'node:diagnostics_channel';
import { gzipSync } from 'node:zlib';
import type { ErrorRequestHandler } from 'express';
import { limitInput, problemDetails } from 'express-unblock';
import { CHUNKED, chunk, closeAll, connectRaw, expressVersions, head, serve } from './support/raw-http';

afterEach(closeAll);

const nested = (depth: number) => '['.repeat(depth) + ']'.repeat(depth);
const object = (keys: number) => `{${Array.from({ length: keys }, (_, i) => `"${i}":${i}`).join(',')}}`;

describe.each(expressVersions)('limitInput with json (%s)', (_name, express) => {
  async function start(json = { depth: 4, keys: 6 }) {
    const errors: Array<Record<string, unknown>> = [];
    const app = express();
    app.use(limitInput('10mb', { json }));
    app.use(express.json({ limit: '10mb', type: ['*/json', '*/*+json'] }), express.raw({ type: () => true }));
    app.use((req, res) => void res.json(Buffer.isBuffer(req.body) ? 'raw' : req.body));
    const note: ErrorRequestHandler = (error, _req, _res, next) => {
      errors.push(error);
      next(error);
    };
    app.use(note, problemDetails());
    const port = await serve(app);
    const post = async (body: string | Buffer, headers: Record<string, string | number> = {}) => {
      const client = await connectRaw(port);
      const length = Buffer.byteLength(body);
      await client.send(
        head('POST', '/', { 'Content-Type': 'application/json', 'Content-Length': length, ...headers }),
        body,
      );
      return client.answer();
    };
    return { errors, port, post };
  }

  const tooLarge = { status: 413, code: 'ERR_UNBLOCK_TOO_LARGE', type: 'entity.too.large' };

  it('lets the deepest allowed nesting pass and refuses one level more', async () => {
    const { post, errors } = await start();
    expect(await post(nested(4))).toMatchObject({ status: 200, body: nested(4) });
    expect(await post('{"a":{"b":[{}]}}')).toMatchObject({ status: 200 });
    expect(errors).toEqual([]);
    expect(await post(nested(5))).toMatchObject({ status: 413 });
    expect(await post('{"a":{"b":[{"c":[]}]}}')).toMatchObject({ status: 413 });
    const tooDeep = expect.objectContaining({ ...tooLarge, measure: 'depth', limit: 4, received: 5 });
    expect(errors).toEqual([tooDeep, tooDeep]);
  });

  it('counts the members of all objects together', async () => {
    const { post, errors } = await start();
    expect(await post(`[${object(3)},${object(3)}]`)).toMatchObject({ status: 200 });
    expect(await post(`[${object(3)},${object(4)}]`)).toMatchObject({ status: 413 });
    expect(errors).toEqual([expect.objectContaining({ ...tooLarge, measure: 'keys', limit: 6, received: 7 })]);
  });

  it('is not got round by how the body says that it is encoded', async () => {
    const { post, errors } = await start();
    expect(await post(nested(5), { 'Content-Encoding': '' })).toMatchObject({ status: 413 });
    for (const charset of ['utf-16', 'UTF-16LE', '"utf-7"', 'utf-8; charset=utf-7', 'utf-16le; x="; charset=utf-8"']) {
      const type = `application/json; charset=${charset}`;
      expect(await post(Buffer.from(nested(5), 'utf16le'), { 'Content-Type': type })).toMatchObject({ status: 415 });
    }
    expect(errors[1]).toMatchObject({ code: 'ERR_UNBLOCK_UNSUPPORTED_CHARSET', charset: 'utf-16' });
    for (const charset of ['utf-8', '"UTF-8"']) {
      const type = `application/json; charset=${charset}`;
      expect(await post(nested(4), { 'Content-Type': type })).toMatchObject({ status: 200 });
      expect(await post(nested(5), { 'Content-Type': type })).toMatchObject({ status: 413 });
    }
  });

  it.each(['utf8', 'us-ascii'])(
    'leaves it to the parser whether it reads %s, whose bytes are those of UTF-8',
    async (charset) => {
      const { post, errors } = await start();
      expect(await post('[]', { 'Content-Type': `application/json; charset=${charset}` })).toMatchObject({
        status: 415,
      });
      expect(errors).toEqual([expect.not.objectContaining({ code: 'ERR_UNBLOCK_UNSUPPORTED_CHARSET' })]);
    },
  );

  it('takes no other parameter for the charset', async () => {
    const { post } = await start();
    const type = 'application/json; x-charset=latin1';
    expect(await post(nested(4), { 'Content-Type': type })).toMatchObject({ status: 200 });
    expect(await post(nested(5), { 'Content-Type': type })).toMatchObject({ status: 413 });
  });

  it.each([
    'application/json; CHARSET=utf-16',
    'application/json; charset = utf-16',
    'application/json ; charset=utf-16',
  ])('finds the charset however it is written: %s', async (type) => {
    const { post } = await start();
    expect(await post('[]', { 'Content-Type': type })).toMatchObject({ status: 415 });
  });

  it('lets a charset pass where there is no JSON to look at', async () => {
    const { post, port, errors } = await start();
    expect(await post('gr\u00fcn', { 'Content-Type': 'text/plain; charset=latin1' })).toMatchObject({ body: '"raw"' });
    const client = await connectRaw(port);
    await client.send(head('GET', '/', { 'Content-Type': 'application/json; charset=utf-16' }));
    expect(await client.answer()).toMatchObject({ status: 200 });
    expect(errors).toEqual([]);
  });

  it('lets a compressed body pass, and looks at one that only says that it is encoded', async () => {
    const { post } = await start();
    // Without compression, so that the brackets stand in the bytes as they are.
    const stored = gzipSync(nested(5), { level: 0 });
    expect(await post(stored, { 'Content-Encoding': 'gzip' })).toMatchObject({ status: 200, body: nested(5) });
    expect(await post(nested(5), { 'Content-Encoding': 'Identity' })).toMatchObject({ status: 413 });
  });

  it('tells the channel express-unblock:reject of a refused charset', async () => {
    const messages: unknown[] = [];
    const onReject = (message: unknown) => messages.push(message);
    subscribe('express-unblock:reject', onReject);
    const { post, errors } = await start();
    await post('[]', { 'Content-Type': 'application/json; charset=utf-16' });
    unsubscribe('express-unblock:reject', onReject);
    expect(messages).toEqual([{ req: expect.anything(), res: expect.anything(), error: errors[0] }]);
  });

  it('counts levels that are open at once, not all there are', async () => {
    const { post } = await start();
    expect(await post(`[${Array(1000).fill('[[[]]]').join(',')}]`)).toMatchObject({ status: 200 });
  });

  it('takes 0 for a limit, and limits only what it is told to', async () => {
    const flat = await start({ depth: 0 } as never);
    expect(await flat.post('"text"', {})).not.toMatchObject({ status: 413 });
    expect(await flat.post('[]')).toMatchObject({ status: 413 });
    const keyless = await start({ keys: 0 } as never);
    expect(await keyless.post(nested(1000))).toMatchObject({ status: 200 });
    expect(await keyless.post('{"a":1}')).toMatchObject({ status: 413 });
  });

  it.each([
    [3, '[[["]]]][[[[[[[[", "{{{{{{{{"]]]'],
    [4, '[[[["\\"[[[[[[", "\\\\", "\\\\\\"[[[[[", "a:b:c:d:e:f:g:h"]]]]'],
    [4, '{"a\\":{\\"":{"é[ü":{"日本[[[語":["😀{[\\ud83d[["]}}}'],
    [1, '["\\u005b\\u005b\\u005b\\u005b\\u005b"]'],
    [4, ' [\n\t[\r\n[ [ "x" , -1.5e3, null ] ] ] ] '],
  ])('takes strings, escapes and multi-byte characters for depth %i, cut anywhere: %s', async (depth, text) => {
    const headers = head('POST', '/', { 'Content-Type': 'application/json', ...CHUNKED });
    const within = await start({ depth, keys: 3 });
    const beyond = await start({ depth: depth - 1, keys: 3 });
    const client = await connectRaw(within.port);
    const refused = await connectRaw(beyond.port);
    const bytes = Buffer.from(text);
    for (let cut = 1; cut < bytes.length; cut++) {
      const body = [chunk(bytes.subarray(0, cut)), chunk(bytes.subarray(cut))];
      await client.send(headers, ...body, chunk(''));
      expect(await client.answer()).toMatchObject({ status: 200, body: JSON.stringify(JSON.parse(text)) });
      await refused.send(headers, ...body);
      expect(await refused.answer()).toMatchObject({ status: 413 });
      await refused.send(chunk(''));
    }
    expect(within.errors).toEqual([]);
  });

  it('finds it in the bytes as they arrive, before the rest was sent', async () => {
    const { port, errors } = await start();
    const client = await connectRaw(port);
    const headers = { 'Content-Type': 'application/json', 'Content-Length': 1_000_000 };
    await client.send(head('POST', '/', headers), '[[', '[[');
    await client.send('[');
    expect(await client.answer()).toMatchObject({ status: 413 });
    expect(errors).toEqual([expect.objectContaining({ measure: 'depth', received: 5 })]);
  });

  it('refuses 100,000 nested arrays at the first too deep', async () => {
    const { post, errors } = await start();
    expect(await post(nested(100_000))).toMatchObject({ status: 413 });
    expect(errors).toEqual([expect.objectContaining({ measure: 'depth', received: 5 })]);
  });

  it.each([
    'application/json',
    'application/json; charset=utf-8',
    'APPLICATION/JSON',
    'application/json\t;charset=utf-8',
    'application/problem+json',
    'application/vnd.api+json;v=1',
  ])('looks into %s', async (type) => {
    const { post } = await start();
    expect(await post(nested(5), { 'Content-Type': type })).toMatchObject({ status: 413 });
  });

  it.each([
    'text/plain',
    'application/jsonlines',
    'application/x-www-form-urlencoded; a=application/json',
    'application/octet-stream',
  ])('leaves %s alone', async (type) => {
    const { post } = await start();
    expect(await post(nested(5), { 'Content-Type': type })).toMatchObject({ status: 200, body: '"raw"' });
  });
});
