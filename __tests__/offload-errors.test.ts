import { closePools, offload } from 'express-unblock';

afterAll(() => closePools({ grace: 0 }));

async function thrownBy(task: () => unknown): Promise<any> {
  try {
    await offload(task)();
  } catch (thrown) {
    return thrown;
  }
  throw new Error('The task threw nothing');
}

describe('what a task throws', () => {
  it.each([
    [
      null,
      () => {
        throw null;
      },
    ],
    [
      undefined,
      () => {
        throw undefined;
      },
    ],
    [
      '',
      () => {
        throw '';
      },
    ],
    [
      'a string',
      () => {
        throw 'a string';
      },
    ],
    [
      0,
      () => {
        throw 0;
      },
    ],
    [
      false,
      () => {
        throw false;
      },
    ],
    [
      { status: 409 },
      () => {
        throw { status: 409 };
      },
    ],
    [
      'late',
      async () => {
        throw 'late';
      },
    ],
  ])('arrives as it is: %j', async (value, task) => {
    expect(await thrownBy(task)).toEqual(value);
  });

  it('may be circular', async () => {
    const thrown = await thrownBy(() => {
      const circle: Record<string, unknown> = { name: 'circle' };
      circle.self = circle;
      throw circle;
    });
    expect(thrown.self).toBe(thrown);
  });

  it.each([
    [
      'a function',
      () => {
        throw () => {};
      },
    ],
    [
      'a symbol',
      () => {
        throw Symbol('s');
      },
    ],
    [
      'an object whose getters throw',
      () => {
        throw {
          get message() {
            throw new Error('no');
          },
        };
      },
    ],
    [
      'an object whose code throws, thrown late',
      async () => {
        await null;
        throw {
          get code() {
            throw new Error('no');
          },
        };
      },
    ],
    [
      'a revoked proxy',
      () => {
        const { proxy, revoke } = Proxy.revocable({}, {});
        revoke();
        throw proxy;
      },
    ],
    [
      'a revoked proxy, thrown late',
      async () => {
        await null;
        const { proxy, revoke } = Proxy.revocable({}, {});
        revoke();
        throw proxy;
      },
    ],
  ])('is an error that says so when it cannot be sent: %s', async (_, task) => {
    expect(await thrownBy(task)).toMatchObject({ code: 'ERR_UNBLOCK_NOT_SERIALIZABLE', status: 500 });
  });

  it.each([
    [
      'whose name throws',
      () => {
        const error = new Error('lost');
        if (error.stack === undefined) return; // Node writes it when it is first read, with the name.
        Object.defineProperty(error, 'name', {
          get() {
            throw new Error('no');
          },
        });
        throw error;
      },
    ],
    [
      'whose class throws',
      () => {
        const error = new Error('lost');
        Object.defineProperty(error, 'constructor', {
          get() {
            throw new Error('no');
          },
        });
        throw error;
      },
    ],
    [
      'whose properties cannot be listed',
      () => {
        throw new Proxy(new Error('lost'), {
          get: (target, key) => Reflect.get(target, key),
          ownKeys() {
            throw new Error('no');
          },
        });
      },
    ],
    [
      'with a property that can be sent once only',
      () => {
        let looks = 0;
        const flaky = {
          get value() {
            return looks++ === 0 ? 1 : () => {};
          },
        };
        throw Object.assign(new Error('lost'), { flaky });
      },
    ],
    [
      'with a property that cannot be sent',
      () => {
        throw Object.assign(new Error('lost'), { send: () => {}, status: 409 });
      },
    ],
    [
      'with a chain of causes longer than a stack is deep',
      () => {
        let cause = new Error('first');
        for (let n = 0; n < 20_000; n++) cause = new Error('lost', { cause });
        throw cause;
      },
    ],
  ])('keeps its message and its stack: an error %s', async (_, task) => {
    const error = await thrownBy(task);
    expect(error).toBeInstanceOf(Error);
    expect(error.message).toBe('lost');
    expect(error.stack).toMatch(/lost\n +at /);
  });
});

describe('an error that a task throws', () => {
  it('keeps class name, message, code and own properties', async () => {
    const error = await thrownBy(function pay() {
      class PaymentError extends RangeError {
        status = 402;
        details = { account: 7n, since: new Date(0) };
      }
      throw Object.assign(new PaymentError('no funds'), { code: 'E_FUNDS' });
    });
    expect(error).toBeInstanceOf(RangeError);
    expect(error.constructor.name).toBe('PaymentError');
    expect(error).toMatchObject({ name: 'PaymentError', message: 'no funds', code: 'E_FUNDS', status: 402 });
    expect(error.details).toEqual({ account: 7n, since: new Date(0) });
  });

  it('has the stack of its throw, beginning with itself', async () => {
    const { stack } = await thrownBy(function pay() {
      throw new TypeError('bad amount');
    });
    expect(stack).toMatch(/^TypeError: bad amount\n +at .*pay.*offload-errors/);
  });

  it('keeps what its class has for Express to read', async () => {
    const error = await thrownBy(() => {
      class Conflict extends Error {
        get status() {
          return 409;
        }
        get headers() {
          return { 'Retry-After': '3' };
        }
      }
      throw new Conflict('taken');
    });
    expect(error).toMatchObject({ status: 409, headers: { 'Retry-After': '3' } });
  });

  it('keeps the status of http-errors', async () => {
    const error = await thrownBy(async () => {
      const { default: createError } = await import('http-errors');
      throw createError(422, 'not a number', { headers: { 'X-Field': 'n' } });
    });
    expect(error).toMatchObject({
      name: 'UnprocessableEntityError',
      status: 422,
      statusCode: 422,
      expose: true,
      headers: { 'X-Field': 'n' },
    });
  });

  it('keeps its causes, however they are linked', async () => {
    const error = await thrownBy(() => {
      const inner = Object.assign(new SyntaxError('inner'), { at: 3 });
      const outer = new Error('outer', { cause: inner });
      Object.assign(inner, { cause: outer, again: outer, parent: outer, first: outer, last: outer, root: outer });
      throw outer;
    });
    expect(error.cause).toBeInstanceOf(SyntaxError);
    expect(error.cause).toMatchObject({ message: 'inner', at: 3 });
    expect(error.cause.cause).toBe(error);
    expect(Object.keys(error)).not.toContain('cause');
  });

  it('keeps the errors of an AggregateError', async () => {
    const error = await thrownBy(() => {
      const errors = Array.from({ length: 200 }, (_, at) => Object.assign(new TypeError(`no ${at}`), { at }));
      throw Object.assign(new AggregateError(errors, 'none worked'), { code: 'E_ALL' });
    });
    expect(error).toBeInstanceOf(AggregateError);
    expect(error).toMatchObject({ name: 'AggregateError', message: 'none worked', code: 'E_ALL' });
    expect(error.errors).toHaveLength(200);
    expect(error.errors[199]).toBeInstanceOf(TypeError);
    expect(error.errors[199]).toMatchObject({ message: 'no 199', at: 199 });
  });

  it('loses only what cannot be sent', async () => {
    const error = await thrownBy(() => {
      const hostile = {
        get: () => {
          throw new Error('no');
        },
        enumerable: true,
      };
      throw Object.defineProperty(Object.assign(new Error('kept'), { retry() {}, tries: 2 }), 'hostile', hostile);
    });
    expect(error).toMatchObject({ message: 'kept', tries: 2 });
    expect(Object.keys(error)).toEqual(expect.not.arrayContaining(['retry', 'hostile']));
  });

  it('may be a DOMException', async () => {
    const error = await thrownBy(() => {
      throw new DOMException('stopped', 'AbortError');
    });
    expect(error).toBeInstanceOf(Error);
    expect(error).toMatchObject({ name: 'AbortError', message: 'stopped', code: 20 });
    expect(error.constructor.name).toBe('DOMException');
  });

  it('may be frozen', async () => {
    const error = await thrownBy(() => {
      throw Object.freeze(Object.assign(new Error('cold'), { status: 418 }));
    });
    expect(error).toMatchObject({ message: 'cold', status: 418 });
  });

  it('may be of a class with a name that is no string', async () => {
    const error = await thrownBy(() => {
      class Odd extends Error {
        static override name = (() => 'Odd') as unknown as string;
      }
      throw new Odd('odd');
    });
    expect(error).toMatchObject({ message: 'odd' });
  });
});
