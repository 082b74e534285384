const { closePools, offload } = require('express-unblock');

const pidOf = offload(() => process.pid);

(async () => {
  const pid = await pidOf();
  for (const signal of ['SIGTERM', 'SIGINT']) process.kill(pid, signal);
  await new Promise((resolve) => setTimeout(resolve, 50));
  console.log((await pidOf()) === pid ? 'lives on' : 'is another');
  await closePools();
})();
