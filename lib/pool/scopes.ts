/** The variables that one of the scopes around a function holds, by name. */
export type Scope = Readonly<Record<string, unknown>>;

/** Where the inspector's console, which begins with nothing but `require`, finds what it is to look at. */
const PLACE = Symbol.for('express-unblock.looked-at');

/**
 * The variables of the scopes around a function, innermost scope first, without the globals. V8 keeps only those that
 * some function inside of the scope uses. They are asked of the running code, since compilers, bundlers and test runners
 * leave the code that runs in no file.
 *
 * @returns `undefined` where there is no inspector to ask, as under `--permission`
 */
export function scopesOf(fn: object): Scope[] | undefined {
  const scopes: Scope[] = [];
  try {
    const inspector: typeof import('node:inspector') = require('node:inspector');
    const session = new inspector.Session();
    session.connect();
    Reflect.set(inspector, PLACE, [fn, (scope: { object: Scope }) => scopes.push(scope.object)]);
    try {
      collect((method, parameters) => ask(session, method, parameters));
    } finally {
      Reflect.deleteProperty(inspector, PLACE);
      session.disconnect();
    }
  } catch {
    return undefined;
  }
  return scopes;
}

type Ask = (method: string, parameters: object) => any;

/** A session of one's own thread answers before `post` returns. */
function ask(session: import('node:inspector').Session, method: string, parameters: object): any {
  let answer: unknown;
  session.post(method, parameters, (_error, result) => {
    answer = result;
  });
  return answer;
}

function collect(inspect: Ask): void {
  const { result: pair } = inspect('Runtime.evaluate', {
    expression: `require('node:inspector')[Symbol.for('${PLACE.description}')]`,
    includeCommandLineAPI: true,
  });
  const propertiesOf = (objectId: string) => inspect('Runtime.getProperties', { objectId, ownProperties: true });
  const [fn, add] = propertiesOf(pair.objectId).result;
  const { internalProperties } = propertiesOf(fn.value.objectId);
  const chain = internalProperties.find(({ name }: { name: string }) => name === '[[Scopes]]');
  for (const { value } of propertiesOf(chain.value.objectId).result) {
    if (value.objectId === undefined || value.description === 'Global') continue;
    inspect('Runtime.callFunctionOn', {
      functionDeclaration: 'function (add) { add(this); }',
      objectId: value.objectId,
      arguments: [{ objectId: add.value.objectId }],
    });
  }
}
