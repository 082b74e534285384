/** As little as a process can do that is there for its parent. */
process.send('ready');
