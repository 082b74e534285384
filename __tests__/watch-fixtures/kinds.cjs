// One route for each kind of work that blocks an event loop. The comments are the places that have to be named.
const { execSync } = require('node:child_process');
const { pbkdf2Sync } = require('node:crypto');
const { subscribe } = require('node:diagnostics_channel');
const { PassThrough } = require('node:stream');
const { setTimeout: wait } = require('node:timers/promises');
const { runInThisContext } = require('node:vm');
const { watch } = require('express-unblock/watch');
const acorn = require('acorn');
const ejs = require('ejs');
const express = require(process.env.EXPRESS);
const { compute } = require('./compute.cjs');

watch({ threshold: '50ms', log: (line) => console.log(line) });
subscribe('express-unblock:blocked', (event) => console.log(JSON.stringify(event)));

const app = express();
const numbers = Array.from({ length: 250_000 }, (_, i) => (i * 7919) % 600_011);
const rows = numbers.map((id) => ({ id, name: `row ${id}`, tags: [id, id + 1] }));
const json = JSON.stringify(rows);
// Made here, since copying so many rows can block, too: the handler is to block only by sending them.
const manyRows = [...rows, ...rows, ...rows];
const source = 'function f(a, b) { return [a, ...b].map((x) => x * 2); }\n'.repeat(6000);

app.get('/sync/:id', function handler(_req, res) {
  work(); // sync
  res.send('done');
});

function work() {
  for (let n = 0; n < 10; n++) compute(15);
}

app.get('/await', async function handler(_req, res) {
  await wait(10);
  work();
  res.send('done');
});

const users = express.Router();
users.get('/:id', function show(_req, res) {
  work();
  res.send('done');
});
app.use('/users', users);
app.use('/orgs/:org', express.Router().use('/teams', users));

app.get('/timer', (_req, res) => {
  setTimeout(function onTimeout() {
    work();
    res.send('done');
  }, 10);
});

app.get('/stream', (_req, res) => {
  const stream = new PassThrough();
  stream.on('data', function onData() {
    work();
    res.send('done');
  });
  setImmediate(() => stream.end('data'));
});

app.get('/regex', function match(_req, res) {
  for (let n = 0; n < 3; n++) /^(a+)+$/.test(`${'a'.repeat(23)}!`); // regex
  res.send('done');
});

app.get('/pbkdf2', function hash(_req, res) {
  pbkdf2Sync('password', 'salt', 300_000, 64, 'sha512'); // pbkdf2
  res.send('done');
});

app.get('/exec', function run(_req, res) {
  execSync('sleep 0.2'); // exec
  res.send('done');
});

app.get('/parse', function parse(_req, res) {
  const parsed = JSON.parse(json);
  res.send(String(parsed.length)); // parse
});

app.get('/stringify', function stringify(_req, res) {
  let length = 0;
  for (let n = 0; n < 5; n++) length += JSON.stringify(rows).length;
  res.send(String(length));
});

app.get('/json', function list(_req, res) {
  res.json(manyRows); // json
});

app.get('/sort', function sort(_req, res) {
  const sorted = [...numbers].sort(function byText(a, b) {
    return String(a) < String(b) ? -1 : 1;
  });
  res.send(String(sorted[0]));
});

app.get('/template', function page(_req, res) {
  res.send(ejs.render('<% for (const x of xs) { %><b><%= x %></b><% } %>', { xs: [...numbers, ...numbers] })); // template
});

app.get('/late', function load(_req, res) {
  require('./slow-to-load.cjs');
  res.send('done');
});

app.get('/wasm', function wasm(_req, res) {
  for (let n = 0; n < 10; n++) countDown(100_000_000); // wasm
  res.send('done');
});

app.get('/library', function find(_req, res) {
  acorn.parse(source, { ecmaVersion: 2022 }); // library
  res.send('done');
});

// Most of the time goes by in one line, in many functions of a library; the longest single one runs in the next.
const spread = runInThisContext(
  // V8 lets nobody in while it optimises a loop, but wherever a function begins.
  `[${Array.from({ length: 12 }, (_, n) => `function part${n}(ms) { const now = () => performance.now(); for (const end = now() + ms; now() < end; ); }`).join(',\n')}]`,
  { filename: '/node_modules/spread/index.js' },
);

app.get('/spread', function visit(_req, res) {
  for (let n = 0; n < spread.length; n++) spread[n](20); // spread
  spread[0](60);
  res.send('done');
});

app.post('/body', express.json({ limit: '1gb' }), (_req, res) => {
  res.send('done');
});

app.get('/after', async (_req, res) => {
  res.send('done');
  await wait(50);
  work();
});

app.get('/ping', (_req, res) => {
  res.send('pong');
});

function onInterval() {
  work();
}
app.get('/interval', (_req, res) => {
  due = true; // For a timer that belongs to no request.
  res.send('done');
});

/** `(func (param i32) (loop …))`: counts its argument down to 0. */
const COUNT_DOWN = `0061736d0100000001050160017f0003020100070d0109636f756e74446f776e0000
  0a130111000340200041016b22004100470d000b0b`;
const { countDown } = new WebAssembly.Instance(
  new WebAssembly.Module(Buffer.from(COUNT_DOWN.replace(/\s/g, ''), 'hex')),
).exports;

const server = app.listen(0, () => {
  console.log(`http://localhost:${server.address().port}`);
});
let due = false;
setInterval(() => {
  if (due) onInterval();
  due = false;
}, 20);
