/** @type {import('jest').Config} */
module.exports = {
  testEnvironment: 'node',
  testMatch: ['**/__tests__/**/*.test.ts'],
  transform: {
    '\\.ts$': [
      '@swc/jest',
      { jsc: { parser: { syntax: 'typescript' }, target: 'es2022' }, module: { ignoreDynamic: true } },
    ],
  },
  modulePathIgnorePatterns: ['<rootDir>/dist/package.json'],
};
