// Restores the arguments as they were typed. Node replaces bytes that are not UTF-8 by U+FFFD, which would name another file; the
// kernel still has the original bytes.

import { nameOfBytes } from '../bytes/names.ts';
import { ImgfuseError } from '../errors/index.ts';
import { readCommandLine } from '../host/processes.ts';

const REPLACEMENT = '\ufffd';

/**
 * @param argv the arguments as Node has them
 * @param commandLine the bytes of the whole command line: each argument ends with NUL
 * @throws ImgfuseError usage if bytes were lost and cannot be restored
 */
export function exactArguments(
  argv: readonly string[],
  commandLine: () => Uint8Array | null = readCommandLine,
): readonly string[] {
  const lossy = argv.find((argument) => argument.includes(REPLACEMENT));
  if (lossy === undefined) return argv;
  const exact = lastArguments(commandLine() ?? new Uint8Array(0), argv.length);
  // a process may have changed its own command line
  const isSame = argv.every((argument, index) => exact[index]?.toString('utf8') === argument);
  if (isSame) return exact.map(nameOfBytes);
  throw new ImgfuseError('usage', `the argument ${lossy} is not UTF-8, and /proc/self/cmdline does not have its bytes`);
}

function lastArguments(commandLine: Uint8Array, count: number): Buffer[] {
  const found: Buffer[] = [];
  for (let start = 0, end = commandLine.indexOf(0); end >= 0; start = end + 1, end = commandLine.indexOf(0, start)) {
    found.push(Buffer.from(commandLine.subarray(start, end)));
  }
  return found.slice(-count);
}
