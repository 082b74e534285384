/** Takes this much CPU time, however busy the machine is. */
exports.compute = function compute(ms) {
  const from = process.cpuUsage();
  let roots = 0;
  for (let used = 0; used < ms * 1000; ) {
    for (let i = 0; i < 10_000; i++) roots += Math.sqrt(i);
    const { user, system } = process.cpuUsage(from);
    used = user + system;
  }
  return roots;
};
