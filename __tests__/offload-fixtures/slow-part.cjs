// Tells that it is being loaded, and takes its time.
const { progress } = require('express-unblock/worker');

exports.first = () => 1;
progress('loading');
for (const end = Date.now() + 300; Date.now() < end; );
exports.last = () => 2;
