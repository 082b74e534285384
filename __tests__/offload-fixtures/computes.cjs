const { progress } = require('express-unblock/worker');

// As in an app that ends itself in order.
for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP']) process.on(signal, () => process.exit(1));

exports.compute = (ms) => {
  progress(process.pid);
  for (const end = performance.now() + ms; performance.now() < end; );
  return process.pid;
};
