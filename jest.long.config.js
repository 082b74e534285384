/** What takes too long for everyone's `npm test`, and runs before a release. */
module.exports = {
  ...require('./jest.config.js'),
  testMatch: ['**/__tests__/long/**/*.test.ts'],
  testPathIgnorePatterns: ['/node_modules/'],
  passWithNoTests: true,
};
