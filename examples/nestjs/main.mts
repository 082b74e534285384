// NestJS on Express: the middlewares go before its router, an exception filter sees their errors as HTTP errors, and
// the module's shutdown closes the pools.
import 'reflect-metadata';
import {
  type ArgumentsHost,
  Catch,
  Controller,
  type ExceptionFilter,
  Get,
  Injectable,
  Module,
  type OnApplicationShutdown,
  Param,
  ParseIntPipe,
} from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import type { NestExpressApplication } from '@nestjs/platform-express';
import type { Response } from 'express';
import { closePools, limitInput, offload, timeout, type UnblockError } from 'express-unblock';

const tasks = offload.module<typeof import('./tasks.mjs')>(new URL('./tasks.mjs', import.meta.url));

@Injectable()
class Primes implements OnApplicationShutdown {
  count(below: number): Promise<number> {
    return tasks.countPrimes(below);
  }

  onApplicationShutdown(): Promise<void> {
    return closePools();
  }
}

@Controller('primes')
class PrimesController {
  constructor(private readonly primes: Primes) {}

  @Get(':below')
  async count(@Param('below', ParseIntPipe) below: number) {
    return { below, count: await this.primes.count(below) };
  }
}

@Module({ controllers: [PrimesController], providers: [Primes] })
class AppModule {}

@Catch()
class UnblockFilter implements ExceptionFilter {
  catch(error: UnblockError & { getStatus?(): number }, host: ArgumentsHost): void {
    const res = host.switchToHttp().getResponse<Response>();
    // Nest hands on what a handler rejects with, which after a deadline was answered already.
    if (res.headersSent) return;
    const status = error.getStatus?.() ?? error.status ?? 500;
    // Nest wraps an HTTP error below 500 in one of its own.
    const { code } = (error.cause ?? error) as UnblockError;
    res.status(status).json({ status, code: code?.startsWith('ERR_UNBLOCK_') ? code : undefined });
  }
}

const app = await NestFactory.create<NestExpressApplication>(AppModule, { logger: false });
app.use(limitInput('100kb'), timeout('2s'));
app.useGlobalFilters(new UnblockFilter());
app.enableShutdownHooks();
await app.listen(process.env.PORT ?? 3000);
console.log(`NestJS: ${(await app.getUrl()).replace('[::1]', 'localhost')}/`);
