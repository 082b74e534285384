import type { Sample } from './main-thread';

/** Paths of requests that no route has taken can be of any length. */
const LONGEST_PATH = 100;

/** `GET /users/:id`, mount paths included; the path itself while no route has taken the request. */
export function routeOf(sample: Sample): string | undefined {
  const { request, route = request?.route, baseUrl = request?.baseUrl } = sample;
  if (request === undefined) return undefined;
  const { method, originalUrl, url, app } = request;
  if (route === undefined) {
    return `${method} ${(originalUrl ?? url ?? '').replace(/[?#].*$/, '').slice(0, LONGEST_PATH)}`;
  }
  const mounted = mountPath(app?._router ?? app?.router, baseUrl ?? '') ?? baseUrl;
  return `${method} ${mounted}${route.path === '/' && mounted ? '' : route.path}`;
}

interface Match {
  readonly path?: string;
  readonly params?: Record<string, unknown>;
}

/** A part of Express's router. What `match()` has found it returns, or keeps until the next request: so do older ones. */
export interface Layer extends Match {
  match(path: string): boolean | Match;
  readonly handle: { readonly stack?: Layer[] };
}

/** Express keeps no patterns of mount paths, only what matches them: so the values are given their names back. */
function mountPath(router: { stack?: Layer[] } | undefined, baseUrl: string): string | undefined {
  if (baseUrl === '') return '';
  for (const layer of router?.stack ?? []) {
    const match = layer.handle.stack !== undefined && layer.match(baseUrl);
    if (match === false) continue;
    const { path, params = {} } = match === true ? layer : match;
    if (path === undefined) continue;
    const rest = mountPath(layer.handle, baseUrl.slice(path.length));
    if (rest !== undefined) return withNames(path, params) + rest;
  }
  return undefined;
}

function withNames(path: string, params: Record<string, unknown>): string {
  const names = new Map(Object.entries(params).map(([name, value]) => [value, `:${name}`]));
  return path.replace(/[^/]+/g, (segment) => names.get(decodeURIComponent(segment)) ?? segment);
}
