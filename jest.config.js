/** @type {import('jest').Config} */
module.exports = {
  testEnvironment: 'node',
  // The tests start processes of their own, and Jest takes one of those that runs out of memory for its own.
  maxWorkers: 1,
  // What takes long lies in a folder of its own, for `npm run test:long`.
  testMatch: ['**/__tests__/*.test.ts'],
  transform: {
    '\\.ts$': [
      '@swc/jest',
      { jsc: { parser: { syntax: 'typescript' }, target: 'es2022' }, module: { ignoreDynamic: true } },
    ],
  },
  modulePathIgnorePatterns: ['<rootDir>/dist/package.json'],
};
