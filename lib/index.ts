export type { UnblockError } from './errors';
export { type JsonLimits, type LimitInputOptions, limitInput } from './limit-input';
export {
  type CallOptions,
  type Offload,
  type Offloaded,
  type OffloadedModule,
  type OffloadOptions,
  offload,
  type TaskContext,
} from './offload';
export type { Size, Time } from './options';
export type { AdmissionStats } from './pool/admission';
export type { PoolOptions } from './pool/options';
export { type CloseOptions, closePools, createPool, defaultPool, type WorkerPool } from './pool/pools';
export type { Percentiles, PoolStats } from './pool/stats';
export { type ProblemDetailsOptions, problemDetails } from './problem-details';
export { currentDeadline, type Deadline } from './request/context';
export { type TimeoutOptions, timeout } from './timeout';
