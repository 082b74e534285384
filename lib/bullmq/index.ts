export type { CloseOptions, WorkerPool } from '../pool/pools';
export type { PoolStats } from '../pool/stats';
export { type ConnectPoolOptions, connectPool } from './connect-pool';
export type { Connection } from './redis';
export { type ServeOptions, type Service, serve } from './serve';
