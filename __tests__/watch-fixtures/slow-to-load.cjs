const { compute } = require('./compute.cjs');

for (let n = 0; n < 10; n++) compute(15);
