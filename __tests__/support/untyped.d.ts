/** Packages without types of their own that the tests use. */
declare module 'express4' {
  import express from 'express';
  export default express;
}

declare module 'multer' {
  import type { RequestHandler } from 'express';
  function multer(options: { storage: unknown }): { single(field: string): RequestHandler };
  namespace multer {
    function memoryStorage(): unknown;
  }
  export default multer;
}
