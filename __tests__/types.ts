/**
 * What TypeScript users rely on. Nothing here runs: `tsc` passes it, or does not. `.ci/run` checks it a second time
 * against the packed tarball, in projects of several module systems.
 */
import type { RequestHandler } from 'express';
import express, { type Request } from 'express';
import {
  type AdmissionStats,
  type CallOptions,
  closePools,
  createPool,
  currentDeadline,
  type Deadline,
  defaultPool,
  type JsonLimits,
  type LimitInputOptions,
  limitInput,
  type Offloaded,
  type OffloadedModule,
  type OffloadOptions,
  offload,
  type Percentiles,
  type PoolOptions,
  type PoolStats,
  type ProblemDetailsOptions,
  problemDetails,
  type Size,
  type TaskContext,
  type Time,
  type TimeoutOptions,
  timeout,
  type UnblockError,
  type WorkerPool,
} from 'express-unblock';
import { type Blocked, type Watch, type WatchOptions, watch } from 'express-unblock/watch';
import 'express-unblock/watch/register';
import { isWorker, progress, signal } from 'express-unblock/worker';

/** Fails to compile unless `Actual` is exactly `Expected`. */
declare function expectType<Expected>(): <Actual>(
  value: Actual,
  ...same: Same<Actual, Expected> extends true ? [] : ['not the expected type']
) => void;
type Same<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false;

const app = express();
const url = new URL('file:///tasks.js');
const { signal: aborted } = new AbortController();

export function helpersOfThisFileNoticeWhatIsWrong(anything: any, text: string) {
  expectType<string>()(text);
  // @ts-expect-error: `any` is not taken for what was expected
  expectType<string>()(anything);
  // @ts-expect-error
  expectType<string | number>()(text);
}

export function anOffloadedFunctionHasTheParametersAndTheResultOfTheOriginal() {
  const sync = offload((text: string, times?: number) => text.repeat(times ?? 1));
  expectType<Offloaded<[text: string, times?: number | undefined], string>>()(sync);
  expectType<Promise<string>>()(sync('a', 2));
  sync('a');
  // @ts-expect-error: the first argument is missing
  sync();
  // @ts-expect-error: text is a string
  sync(1);
  // @ts-expect-error: there are two parameters
  sync('a', 2, 3);

  const async = offload(async (words: readonly string[]) => new Map(words.map((word) => [word, 1n])));
  expectType<Promise<Map<string, bigint>>>()(async(['a']));

  const rest = offload((...numbers: number[]) => numbers.length > 0);
  expectType<Promise<boolean>>()(rest(1, 2, 3));

  expectType<Promise<void>>()(offload(() => {})());
  expectType<Promise<undefined>>()(offload(async () => undefined)());
}

export function aSizeIsTakenOfTheArguments() {
  const run = offload((text: string, times: number) => text.repeat(times), {
    size: (text, times) => {
      expectType<string>()(text);
      expectType<number>()(times);
      return text.length * times;
    },
    admission: 'observe',
  });
  expectType<Offloaded<[text: string, times: number], string>>()(run);
  expectType<number | undefined>()(run.manages('5s'));
  const byFirst = offload((text: string, times: number) => text.repeat(times), { size: (text) => text.length });
  expectType<Offloaded<[text: string, times: number], string>>()(byFirst);
  const byOwnName = offload((text: string, times: number) => text.repeat(times), { size: (a: string) => a.length });
  expectType<Promise<string>>()(byOwnName('a', 2));
  // @ts-expect-error: there are two parameters
  byOwnName('a');
  // @ts-expect-error: a size is a number
  offload((text: string) => text, { size: (text) => text });
  // @ts-expect-error: its parameters are those of the function
  offload((text: string) => text, { size: (count: number) => count });
  // @ts-expect-error
  offload((text: string) => text, { admission: 'on' });
  for (const figures of createPool().stats().functions) expectType<AdmissionStats>()(figures);
}

export function aTaskMayUseThis() {
  const reporting = offload(function report(this: TaskContext, steps: number) {
    expectType<AbortSignal>()(this.signal);
    this.progress(steps);
    // @ts-expect-error: there is nothing else
    this.deadline;
    return steps;
  });
  expectType<Offloaded<[steps: number], number>>()(reporting);
  expectType<Promise<number>>()(reporting(1));

  // Without a word about `this`, it is the task's.
  offload(function report(steps: number) {
    expectType<TaskContext>()(this);
    this.progress(steps);
  });
  // @ts-expect-error: a method that needs an object of its own
  offload(function report(this: { name: string }) {
    return this.name;
  });
}

export function oneCallMayHaveOptionsOfItsOwn() {
  const length = offload((text: string) => text.length);
  const once = length.with({ signal: aborted, timeout: '5s', onProgress: (share: number) => share });
  expectType<(text: string) => Promise<number>>()(once);
  length.with({ signal: undefined, timeout: undefined, onProgress: undefined });
  // @ts-expect-error
  once(1);
  // @ts-expect-error: a pool is chosen when the function is wrapped
  length.with({ pool: createPool() });
  // @ts-expect-error: a signal, not its controller
  length.with({ signal: new AbortController() });
}

export function aHandlerPicksTheArgumentsFromTheRequest() {
  const repeat = offload((text: string, times: number) => text.repeat(times));
  const handler = repeat.handler((req) => {
    expectType<Request>()(req);
    return [req.params.text as string, Number(req.query.times)];
  });
  expectType<RequestHandler>()(handler);
  app.get('/:text', handler);
  app.get(
    '/:text',
    repeat.handler((req: Request<{ text: string }>) => [req.params.text, 2]),
  );
  app.get(
    '/:text',
    repeat.handler(async () => ['a', 2]),
  );
  app.get(
    '/',
    repeat.handler(() => ['a', 2] as const),
  );
  // @ts-expect-error: an argument is missing
  repeat.handler((req) => [req.body.text]);
  // @ts-expect-error: in the other order
  repeat.handler(() => [2, 'a']);
  // @ts-expect-error: the argument itself is no list
  repeat.handler((req) => req.path);
}

export function offloadTakesFunctionsAndKnownOptions() {
  const options: OffloadOptions = { timeout: 500, pool: createPool(), reclaim: 'kill' };
  offload(() => 1, options);
  // @ts-expect-error
  offload('1 + 1');
  // @ts-expect-error: a class is no function
  offload(class Task {});
  // @ts-expect-error
  offload(() => 1, { reclaim: 'terminate' });
  // @ts-expect-error
  offload(() => 1, { timeOut: 500 });
  // @ts-expect-error: options are not changed later
  options.timeout = 1000;
}

export function aModuleBecomesItsFunctions() {
  const tasks = offload.module<typeof import('./types-tasks.js')>(url, { timeout: '1m' });
  expectType<OffloadedModule<typeof import('./types-tasks.js')>>()(tasks);
  expectType<Offloaded<[text: string, word?: string | undefined], number>>()(tasks.count);
  expectType<Promise<number>>()(tasks.count('a b'));
  expectType<Promise<Map<string, number>>>()(tasks.load('a'));
  expectType<Promise<bigint>>()(tasks.sum(1, 2, 3));
  expectType<Promise<number>>()(tasks.count.with({ signal: aborted })('a b', 'a'));
  app.get(
    '/',
    tasks.count.handler((req) => [req.path]),
  );

  // @ts-expect-error
  tasks.count(1);
  // @ts-expect-error: no such export
  tasks.missing;
  // @ts-expect-error: a constant cannot be called
  tasks.version;
  // @ts-expect-error: nor can an object
  tasks.settings;
  // @ts-expect-error: nor, without `new`, a class
  tasks.Parser;
  // @ts-expect-error: it is not written to
  tasks.count = offload((text: string) => text.length);
  expectType<'count' | 'load' | 'sum' | 'report'>()({} as keyof typeof tasks);
  expectType<Promise<number>>()(tasks.report(1));

  // Without the module's types its functions take anything, and return who knows what.
  const untyped = offload.module('/srv/tasks.js');
  if (untyped.anything) expectType<Promise<unknown>>()(untyped.anything(1, 'a'));
  // @ts-expect-error
  offload.module(1);
}

export function aTimeoutKnowsTheRequestOfItsApp() {
  app.use(timeout(500));
  app.use(timeout('5s', { until: 'response' }));
  app.use(timeout((req: Request) => (req.path === '/export' ? '1m' : 500), { skip: (req) => req.path === '/events' }));
  app.use(timeout(500, { skip: (req) => req.query.wait !== undefined }));
  app.get('/', timeout(500, { skip: (req) => req.headers.accept === 'text/event-stream' }), (_req, res) => {
    res.json(currentDeadline()?.remaining());
  });
  express.Router().use(timeout(500));

  const options: TimeoutOptions = { until: 'head', skip: undefined };
  // @ts-expect-error
  options.until = 'response';
  // @ts-expect-error
  timeout(500, { until: 'end' });
  // @ts-expect-error
  timeout(500, { respond: true });
  // @ts-expect-error
  timeout();
  // @ts-expect-error: a function of the request, not a promise of one
  timeout(async () => 500);
}

export function aRequestHasItsDeadline(req: Request, deadline: Deadline) {
  expectType<Deadline>()(req.deadline);
  expectType<Deadline | undefined>()(currentDeadline());
  expectType<AbortSignal>()(deadline.signal);
  expectType<boolean>()(deadline.expired);
  expectType<number>()(deadline.remaining());
  expectType<Record<string, string>>()(deadline.headers());
  expectType<void>()(deadline.extend('5s'));
  expectType<void>()(deadline.clear());
  app.get('/', (req, res) => {
    expectType<Deadline>()(req.deadline);
    res.end();
  });
  // @ts-expect-error: it is read
  deadline.expired = true;
  // @ts-expect-error
  deadline.signal = aborted;
}

export function aLimitMeasuresWhatItsAppParsed() {
  app.use(limitInput('1mb'));
  app.post('/', express.json(), limitInput(20_000, { of: (req: Request) => req.body.text }));
  app.post('/', express.json(), limitInput(20_000, { of: (req) => req.body.text }));
  app.post(
    '/:id',
    express.json(),
    limitInput(20_000, { of: (req) => req.body.title }),
    timeout('1s', { skip: (req) => req.path === '/' }),
  );
  app.use(limitInput('1mb', { json: { depth: 32, keys: 10_000 } }));
  const json: JsonLimits = { depth: 32 };
  const options: LimitInputOptions = { of: (req) => req.body, json };
  // @ts-expect-error
  options.json = undefined;
  // @ts-expect-error
  json.depth = 1;
  // @ts-expect-error
  limitInput();
  // @ts-expect-error
  limitInput('1mb', { json: { length: 1 } });
  // @ts-expect-error
  limitInput(1, { off: () => 1 });
}

export async function aPoolHasReadonlyOptionsAndFigures() {
  const options: PoolOptions = {
    workers: 2,
    minWorkers: 1,
    maxQueue: 0,
    memory: '512mb',
    env: process.env,
    execArgv: ['--import', 'tsx'] as const,
  };
  // @ts-expect-error
  options.workers = 3;
  // @ts-expect-error
  options.execArgv?.push('--inspect');
  // @ts-expect-error
  createPool({ threads: 2 });
  createPool();

  const pool = createPool(options);
  expectType<WorkerPool>()(pool);
  expectType<Promise<void>>()(pool.ready());
  expectType<Promise<void>>()(pool.close());
  await pool.close({ grace: '5s' });
  await pool[Symbol.asyncDispose]();
  await using disposed = pool;
  expectType<WorkerPool>()(disposed);
  await closePools({ grace: 0 });

  const stats = pool.stats();
  expectType<PoolStats>()(stats);
  expectType<Percentiles>()(stats.run);
  expectType<number>()(stats.wait.p99 + stats.queued);
  // @ts-expect-error
  stats.completed = 0;
  // @ts-expect-error: it is made by createPool
  new WorkerPool();
}

export function problemDetailsHandleErrors() {
  const options: ProblemDetailsOptions = { expose: true };
  app.use(problemDetails());
  app.use(problemDetails(options));
  express.Router().use(problemDetails({ expose: undefined }));
  // @ts-expect-error
  problemDetails({ expose: 'yes' });
  // @ts-expect-error
  options.expose = false;
}

export function aTaskReportsAndListens() {
  expectType<boolean>()(isWorker);
  expectType<AbortSignal>()(signal);
  expectType<void>()(progress({ done: 1 }));
  // @ts-expect-error: something has to be reported
  progress();
}

export const times: Time[] = [1, '5s'];
export const sizes: Size[] = [1, '100kb'];
export const calls: CallOptions[] = [{}, { signal: aborted }];
// @ts-expect-error
export const noTime: Time = new Date();

export function aSwitchOverTheCodeOfAnErrorKnowsWhatItCarries(error: UnblockError): number | undefined {
  switch (error.code) {
    case 'ERR_UNBLOCK_TIMEOUT':
      expectType<504>()(error.status);
      return error.timeout;
    case 'ERR_UNBLOCK_UPLOAD_TIMEOUT':
      expectType<408>()(error.status);
      return error.timeout;
    case 'ERR_UNBLOCK_CLIENT_CLOSED':
      expectType<499>()(error.status);
      return;
    case 'ERR_UNBLOCK_TOO_LARGE':
      expectType<413 | 500>()(error.status);
      expectType<'bytes' | 'depth' | 'keys' | 'input' | 'arguments' | 'result' | 'progress'>()(error.measure);
      return error.received ?? error.expected ?? error.limit;
    case 'ERR_UNBLOCK_TOO_SLOW':
      expectType<413>()(error.status);
      expectType<number | undefined>()(error.manages);
      return error.limit + error.size;
    case 'ERR_UNBLOCK_UNSUPPORTED_CHARSET':
      expectType<415>()(error.status);
      return error.charset.length;
    case 'ERR_UNBLOCK_QUEUE_FULL':
    case 'ERR_UNBLOCK_OVERLOADED':
    case 'ERR_UNBLOCK_UNREACHABLE':
      expectType<503>()(error.status);
      expectType<string>()(error.headers['Retry-After']);
      return error.retryAfter;
    case 'ERR_UNBLOCK_POOL_CLOSED':
      expectType<503>()(error.status);
      return;
    case 'ERR_UNBLOCK_WORKER_DIED':
      expectType<500>()(error.status);
      expectType<NodeJS.Signals | null>()(error.signal);
      return error.exitCode ?? 0;
    case 'ERR_UNBLOCK_NO_SUCH_MODULE':
      expectType<500>()(error.status);
      return error.module.length;
    case 'ERR_UNBLOCK_NOT_SERIALIZABLE':
      expectType<500>()(error.status);
      return;
    case 'ERR_UNBLOCK_NO_SUCH_EXPORT':
    case 'ERR_UNBLOCK_NOT_SELF_CONTAINED':
    case 'ERR_UNBLOCK_BAD_OPTION':
      expectType<undefined>()(error.status);
      return;
    default:
      // Whoever adds a code adds it here.
      expectType<never>()(error);
      return;
  }
}

export function everyErrorHasAStatusToAnswerWithOrNone(error: UnblockError) {
  const status: number = error.status ?? 500;
  // @ts-expect-error: no error has this code
  error.code === 'ERR_UNBLOCK_NONE';
  return { status, message: error.message };
}

export function theDefaultPoolIsAPoolLikeOthers() {
  expectType<WorkerPool>()(defaultPool());
  offload(() => 1, { pool: defaultPool() });
}

export function aWatchHasReadonlyOptions() {
  const options: WatchOptions = { threshold: '100ms', exitAfter: 30_000, log: (line: string) => line };
  expectType<Watch>()(watch(options));
  watch().stop();
  watch({ threshold: undefined, exitAfter: undefined, log: undefined });
  // @ts-expect-error
  watch({ treshold: 100 });
  // @ts-expect-error
  watch({ log: 'stderr' });
  // @ts-expect-error
  options.threshold = 1;
}

export function aMessageOfTheChannelHasAType({ route, ms, cpuMs, at, advice, stack }: Blocked) {
  expectType<string | undefined>()(route);
  expectType<number>()(ms + cpuMs);
  expectType<string>()(at + advice + stack);
}
