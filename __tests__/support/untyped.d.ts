/** Middlewares that bring no types and need none to be mounted. */
declare module 'compression';
declare module 'cors';
declare module 'express-session';
declare module 'morgan';
declare module 'multer';

declare module 'express4' {
  import express from 'express';
  export default express;
}
