/** Express 4, which the tests have under a second name, is used as far as it is the same as Express 5. */
declare module 'express4' {
  import express = require('express');
  export = express;
}
