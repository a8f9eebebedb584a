// The version of the program, which package.json has.

import { createRequire } from 'node:module';
import { EXIT_OK } from '../errors/exit-codes.ts';
import { answered, print } from './output.ts';

/** @returns the exit code */
export function printVersion(): number {
  const { version } = createRequire(import.meta.url)('../../package.json') as { version: string };
  print(version);
  return answered(EXIT_OK);
}
