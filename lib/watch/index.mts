export { type Blocked, type Time, type Watch, type WatchOptions, watch } from './index.js';
