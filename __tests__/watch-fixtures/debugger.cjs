// A debugger, here of the app's own, that stands at a breakpoint for three seconds.
const { isMainThread, parentPort, Worker } = require('node:worker_threads');
const { Session } = require('node:inspector');

if (isMainThread) {
  const express = require('express');
  require('express-unblock/watch').watch({ threshold: 50, exitAfter: '1s' });
  const app = express();
  app.get('/pause', (_req, res) => {
    // biome-ignore lint/suspicious/noDebugger: it is what this is about
    debugger;
    res.send('resumed');
  });
  const thread = new Worker(__filename);
  thread.once('message', () => {
    const server = app.listen(0, () => console.log(`http://localhost:${server.address().port}`));
    app.get('/end', (_req, res) => {
      res.send('ending');
      server.close();
      server.closeAllConnections();
      void thread.terminate();
    });
  });
} else {
  parentPort.on('message', () => {}); // It stays.
  const session = new Session();
  session.connectToMainThread();
  session.on('Debugger.paused', () => setTimeout(() => session.post('Debugger.resume'), 3000));
  session.post('Debugger.enable', () => parentPort.postMessage('enabled'));
}
