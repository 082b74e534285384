const http = require('node:http');
const { closePools, createPool, offload } = require('express-unblock');

const pool = createPool({ workers: 2 });
const compute = offload(
  function compute(ms) {
    this.progress(process.pid);
    for (const end = performance.now() + ms; performance.now() < end; );
    return 'whole answer';
  },
  { pool },
);

const workers = [];
const onProgress = (pid) => {
  workers.push(pid);
  if (workers.length === 2) process.send({ workers });
};
const server = http.createServer((_req, res) => {
  compute
    .with({ onProgress })(400)
    .then(
      (text) => res.end(`200 ${text}`),
      (error) => res.end(`500 ${error.code}`),
    );
});

process.once('SIGTERM', async () => {
  server.close();
  await closePools();
  process.disconnect();
});

server.listen(0, async () => {
  const url = `http://127.0.0.1:${server.address().port}`;
  compute
    .with({ onProgress })(400)
    .catch(() => {});
  console.log(await (await fetch(url)).text());
  server.closeAllConnections();
});
