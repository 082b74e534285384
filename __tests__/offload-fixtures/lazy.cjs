// A library that loads a part of itself when it is first used.
exports.use = () => Object.keys(require('./slow-part.cjs'));
