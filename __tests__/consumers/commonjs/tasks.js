const { progress } = require('express-unblock/worker');

exports.count = function count(text) {
  progress('counted');
  return { words: text.split(' ').length, pid: process.pid };
};
