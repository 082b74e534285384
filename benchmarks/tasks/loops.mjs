/** Ten kinds of loop that never end, as text for the workers. */
export const loops = {
  arithmetic: () => {
    for (let n = 1; ; n++) n = (n * 31) % 1_000_003;
  },
  strings: () => {
    for (;;) {
      let text = '';
      for (let n = 0; n < 1000; n++) text += n;
      text.slice(1);
    }
  },
  allocation: () => {
    for (let list = []; ; list = list.length > 1000 ? [] : list) list.push({ list: [list.length], at: {} });
  },
  'regular expression': () => {
    for (;;) /^(a+)+$/.test(`${'a'.repeat(40)}!`);
  },
  sorting: () => {
    for (;;) Array.from({ length: 5000 }, (_, n) => (n * 7919) % 5003).sort((a, b) => a - b);
  },
  recursion: () => {
    const fibonacci = (n) => (n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2));
    for (;;) fibonacci(25);
  },
  'typed array': () => {
    for (const bytes = new Uint8Array(1 << 16); ; ) for (let n = 1; n < bytes.length; n++) bytes[n] = bytes[n - 1] + n;
  },
  maps: () => {
    for (const map = new Map(); ; ) for (let n = 0; n < 1000; n++) map.set(n, (map.get(n) ?? 0) + 1);
  },
  'nested calls': () => {
    const inner = (n) => Math.sqrt(n) + 1;
    const middle = (n) => inner(n) + inner(n + 1);
    for (let n = 0; ; n = (middle(n) * middle(n + 2)) % 1000);
  },
  'JSON.parse': () => {
    for (const text = JSON.stringify(Array.from({ length: 1000 }, (_, n) => ({ n }))); ; ) JSON.parse(text);
  },
};
