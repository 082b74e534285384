/** node injected.cjs <express>: requests handed to an app without a connection; prints what each got. */
const inject = require('light-my-request');
const { limitInput, timeout } = require('express-unblock');
const express = require(process.argv[2]);

const app = express();
app.get('/slow', timeout(30), () => {});
app.get('/fine', timeout(1_000), (req, res) => {
  res.on('close', () => console.log('left', req.deadline.signal.aborted));
  res.send('fine');
});
app.post('/', limitInput(10), express.text(), (req, res) => res.send(req.body));
app.use((error, _req, res, _next) => res.status(error.status).send(error.code));

async function ask(url, payload) {
  const request = {
    method: payload === undefined ? 'GET' : 'POST',
    url,
    payload,
    headers: { 'content-type': 'text/plain' },
  };
  const { statusCode, payload: body } = await inject(app, request);
  console.log(statusCode, body);
}

(async () => {
  await ask('/fine');
  await ask('/slow');
  await ask('/', 'short');
  await ask('/', 'longer than it may be');
})();
