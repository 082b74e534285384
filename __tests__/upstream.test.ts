import { readUpstreamTime, upstreamHeaders } from '../lib/request/upstream';

const NOW = 1_795_000_000_000;
const nothing = { limit: Number.POSITIVE_INFINITY, waited: 0 };
function read(headers: Record<string, string | string[]>) {
  const { limit, waited } = readUpstreamTime(headers, NOW);
  return { limit, waited };
}

describe('what a request says of the time that its sender has', () => {
  it('is nothing without headers', () => {
    expect(read({})).toEqual(nothing);
  });

  it.each([
    ['250', 250],
    ['0', 0],
    ['99999999999', 99_999_999_999],
  ])('is %s ms in x-envoy-expected-rq-timeout-ms', (text, limit) => {
    expect(read({ 'x-envoy-expected-rq-timeout-ms': text })).toEqual({ limit, waited: 0 });
  });

  it.each([
    ['2H', 7_200_000],
    ['3M', 180_000],
    ['4S', 4_000],
    ['500m', 500],
    ['1500u', 1.5],
    ['2000000n', 2],
    ['99999999H', 99_999_999 * 3_600_000],
    ['00000001S', 1_000],
    ['0n', 0],
  ])('is %s in grpc-timeout', (text, limit) => {
    const time = read({ 'grpc-timeout': text });
    expect(time.limit).toBeCloseTo(limit, 9);
    expect(time.waited).toBe(0);
  });

  it.each([
    ['1794999999.750', 250],
    ['1794999999.75', 250],
    ['1794999999', 1_000],
    ['1794999999750', 250],
    ['1794999999750.5', 249.5],
    ['1794999999750250', 249.75],
    ['1795000000000', 0],
    ['1794996400000', 3_600_000],
  ])('takes off the time since x-request-start: %s, with and without t=', (text, waited) => {
    for (const header of [text, `t=${text}`]) {
      const time = read({ 'x-request-start': header });
      expect(time.waited).toBeCloseTo(waited, 3);
      expect(time.limit).toBe(Number.POSITIVE_INFINITY);
    }
  });

  it.each(['', ' ', '-1', '+1', '1.5', '1e3', '0x10', '10ms', '٣', 'Infinity', 'NaN', 'soon'])(
    'leaves out %p in x-envoy-expected-rq-timeout-ms',
    (text) => expect(read({ 'x-envoy-expected-rq-timeout-ms': text })).toEqual(nothing),
  );

  it.each(['', 'S', '1', '1s', '1h', '-1S', '1.5S', '1 S', '123456789m', '1Sm', '1e3m', '1S;'])(
    'leaves out %p in grpc-timeout',
    (text) => expect(read({ 'grpc-timeout': text })).toEqual(nothing),
  );

  it.each([
    '',
    't=',
    't',
    '-5',
    'T=1794999999',
    't= 1794999999',
    's=1794999999',
    '1794999999.',
    'yesterday',
    '2026-11-26T00:00:00Z',
    '0',
    '1',
    '1000000000', // 2001
    '1794996399', // an hour and a second ago
    '1795003600', // in an hour
    '1795000000001', // in a millisecond
    '9'.repeat(400),
  ])('leaves out what is no time, absurdly old or in the future in x-request-start: %p', (text) => {
    expect(read({ 'x-request-start': text })).toEqual(nothing);
  });

  it('is the earliest that several headers, or several proxies, say', () => {
    expect(read({ 'x-envoy-expected-rq-timeout-ms': '300', 'grpc-timeout': '200m' }).limit).toBe(200);
    expect(read({ 'x-envoy-expected-rq-timeout-ms': '100', 'grpc-timeout': '200m' }).limit).toBe(100);
    expect(read({ 'x-envoy-expected-rq-timeout-ms': '100', 'grpc-timeout': 'soon' }).limit).toBe(100);
    expect(read({ 'grpc-timeout': '3S, 2S,never' }).limit).toBe(2_000);
    expect(read({ 'x-request-start': 't=1794999999.9, t=1794999999.5' }).waited).toBe(500);
    expect(read({ 'x-request-start': ['1794999999500', '1794999999900'] }).waited).toBe(500);
  });
});

describe('the headers for the next service', () => {
  it.each([
    [1_234.9, '1234', '1234m'],
    [0.9, '0', '0m'],
    [0, '0', '0m'],
    [99_999_999, '99999999', '99999999m'],
    [2 ** 31 - 1, '2147483647', '2147483S'],
  ])('say that %p ms are left', (left, envoy, grpc) => {
    const headers = upstreamHeaders(left);
    expect(headers).toEqual({ 'x-envoy-expected-rq-timeout-ms': envoy, 'grpc-timeout': grpc });
    expect(readUpstreamTime(headers).limit).toBeLessThanOrEqual(left);
  });

  it('are none where there is no limit', () => {
    expect(upstreamHeaders(Number.POSITIVE_INFINITY)).toEqual({});
  });
});
