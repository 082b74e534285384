const { isWorker, progress } = require('express-unblock/worker');
const worker = require('express-unblock/worker');

exports.triple = (n) => n * 3;
exports.where = () => ({ isWorker, pid: process.pid });
exports.report = (to) => {
  for (let n = 1; n <= to; n++) progress(n);
};
exports.untilAborted = async () => {
  progress('waiting');
  await new Promise((resolve) => worker.signal.addEventListener('abort', resolve, { once: true }));
  return process.pid;
};
