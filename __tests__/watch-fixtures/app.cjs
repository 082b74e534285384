// An app that knows nothing of the watch, or begins one with the options in WATCH.
const cluster = require('node:cluster');
const { execSync } = require('node:child_process');
const { pbkdf2Sync } = require('node:crypto');
const express = require('express');
const { compute } = require('./compute.cjs');

if (process.env.WATCH) require('express-unblock/watch').watch(JSON.parse(process.env.WATCH));

if (process.env.CLUSTER && cluster.isPrimary) {
  const fork = () =>
    cluster.fork().on('exit', (code) => {
      console.log(`worker exited with ${code}`);
      fork();
    });
  fork();
} else {
  compute(Number(process.env.START_MS ?? 0));
  serve();
}

function serve() {
  const app = express();
  app.get('/work', function work(_req, res) {
    compute(200);
    res.send('done');
  });
  app.get('/endless', function endless() {
    for (;;);
  });
  app.get('/regex', function regex() {
    /^(a+)+$/.test(`${'a'.repeat(60)}!`);
  });
  app.get('/sleep', function sleep() {
    execSync('sleep 60');
  });
  app.get('/native-exit', function exit() {
    pbkdf2Sync('a', 'b', 200_000, 64, 'sha512');
    process.exit(3);
  });
  app.get('/exit', function exit() {
    compute(100);
    process.exit(3);
  });
  app.get('/end', (_req, res) => {
    res.send('ending');
    server.close();
    server.closeAllConnections();
  });
  const server = app.listen(Number(process.env.PORT ?? 0), () => {
    console.log(`http://localhost:${server.address().port}`);
  });
}
