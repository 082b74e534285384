import { readFileSync } from 'node:fs';
import { startWatched, stopWatched, type WatchedApp, watchFixture } from './support/watched-app';

jest.setTimeout(60_000);
afterAll(stopWatched);

const source = readFileSync(watchFixture('kinds.cjs'), 'utf8').split('\n');
/** The line that ends in this comment. */
const at = (comment: string) => `kinds\\.cjs:${source.findIndex((line) => line.endsWith(`// ${comment}`)) + 1}`;

describe.each([
  ['Express 5', 'express'],
  ['Express 4', 'express4'],
])('%s', (_name, express) => {
  const OFFLOAD = 'wrap it with offload\\(\\)';
  const kinds: Record<string, [path: string, named: string]> = {
    'a handler, by its route pattern': [
      '/sync/7?q=1',
      `GET /sync/:id .* in compute \\(compute\\.cjs:\\d+\\).*: ${OFFLOAD}`,
    ],
    'a handler after an await': ['/await', `GET /await .* in compute \\(.*: ${OFFLOAD}`],
    'a mounted router': ['/users/7', `GET /users/:id .* in compute \\(.*: ${OFFLOAD}`],
    'a router mounted in a router': ['/orgs/3/teams/7', `GET /orgs/:org/teams/:id .* in compute \\(.*: ${OFFLOAD}`],
    'a timer of a request': ['/timer', `GET /timer .* in compute \\(.*: ${OFFLOAD}`],
    'a timer of no request': ['/interval', `something outside of a request .* in compute \\(.*: ${OFFLOAD}`],
    'a stream': ['/stream', `GET /stream .* in compute \\(.*: ${OFFLOAD}`],
    'work after the response': ['/after', `GET /after, after its response, blocked .* in compute \\(.*: ${OFFLOAD}`],
    'a regular expression': ['/regex', `GET /regex .* in match \\(${at('regex')}\\).*: ${OFFLOAD}`],
    'a synchronous call that computes': [
      '/pbkdf2',
      `in hash \\(${at('pbkdf2')}\\), pbkdf2Sync.*: use pbkdf2\\(\\) instead`,
    ],
    'a synchronous call that waits': ['/exec', `in run \\(${at('exec')}\\), execSync: use exec\\(\\) instead`],
    'JSON.parse': ['/parse', `in parse \\(${at('parse')}\\), in native code just before.*: ${OFFLOAD}`],
    'JSON.stringify': ['/stringify', `in stringify \\(kinds\\.cjs:\\d+\\).*: ${OFFLOAD}`],
    'a huge answer': [
      '/json',
      // Express makes the text and its ETag: which of them is at it when the sample is taken, differs with Node.
      `in list \\(${at('json')}\\), inside of \\w+ \\((express4?/lib/response|etag/index)\\.js:.*: send less`,
    ],
    sorting: ['/sort', 'in (byText|sort) \\(kinds\\.cjs:\\d+\\).*: wrap it with offload'],
    'a template': [
      '/template',
      `in page \\(${at('template')}\\), inside of \\w+ \\(ejs/lib/.*: .*offload\\.module\\(\\)`,
    ],
    'a module that is loaded late': ['/late', 'in compute \\(.*, loading a module.*: load it when the app starts'],
    WebAssembly: ['/wasm', `in wasm \\(${at('wasm')}\\), inside of WebAssembly.*: ${OFFLOAD}`],
    'a library': [
      '/library',
      `in find \\(${at('library')}\\), inside of .* \\(acorn/dist/.*: .*offload\\.module\\(\\)`,
    ],
    'a line that calls many functions of a library': [
      '/spread',
      `in visit \\(${at('spread')}\\), inside of (now|part\\d+) \\(spread/.*: .*offload\\.module\\(\\)`,
    ],
  };
  let app: WatchedApp;

  beforeAll(async () => {
    app = await startWatched('kinds.cjs', { env: { EXPRESS: express } });
  });

  test.each(Object.entries(kinds))('names %s', async (_kind, [path, named]) => {
    const about = path === '/interval' ? 'something outside' : `GET ${path.split('/', 2).join('/')}`;
    // On a machine that is busy with something else, a block may not be told of: its thread has had too little CPU time.
    void app.request(path);
    const again = setInterval(() => void app.request(path), 5000);
    try {
      expect(await app.line(new RegExp(`^express-unblock: ${about}\\b`))).toMatch(new RegExp(named));
    } finally {
      clearInterval(again);
    }
  });

  test('names a body parser that has a huge body to parse', async () => {
    const body = JSON.stringify(Array.from({ length: 500_000 }, (_, id) => ({ id, name: `row ${id}` })));
    void app.request('/body', { method: 'POST', body, headers: { 'Content-Type': 'application/json' } });
    expect(await app.line(/^express-unblock: POST/)).toMatch(
      /POST \/body .* parsing the body.*: limit the body with limitInput/,
    );
  });
});
