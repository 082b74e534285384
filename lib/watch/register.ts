/** For `node --import express-unblock/watch/register app.js`, and `--require`. */
import { watch } from './index';

watch();
