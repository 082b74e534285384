// As agents do that are preloaded into every process.
for (const signal of ['SIGTERM', 'SIGINT']) process.on(signal, () => process.exit(1));
