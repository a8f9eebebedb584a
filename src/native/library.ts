// The C library through koffi, loaded at the first call. koffi is an optional dependency: if it is missing, every
// system call of this folder throws `unsupported` and says so by name; nothing fails at import time.
// Invariant: 64-bit Linux only (off_t, size_t and long are 8 bytes); other machines count as "not available".

import { createRequire } from 'node:module';
import { ImgfuseError } from '../errors/index.ts';
import { systemCallError } from './errno.ts';

/** A C function: numbers, strings and byte arrays in, a number out. */
export type NativeFunction = (...parameters: readonly unknown[]) => number;

/** The part of koffi that is used here. */
interface Koffi {
  load(path: string | null): {
    func(name: string, result: unknown, parameters: readonly unknown[]): NativeFunction;
    func(definition: string): NativeFunction;
  };
  struct(definition: Readonly<Record<string, unknown>>): object;
  pointer(type: unknown): object;
  inout(type: unknown): object;
  sizeof(type: string): number;
  errno(): number;
}

type Library = ReturnType<Koffi['load']>;

interface Loaded {
  readonly koffi: Koffi;
  readonly library: Library;
}

let loaded: Loaded | undefined;
let failure: ImgfuseError | undefined;

/** koffi's own index takes 5 ms in every thread to find this file: it is compiled, and looks into the program of Node. */
function loadKoffi(): Koffi {
  const require = createRequire(import.meta.url);
  const index = require.resolve('koffi');
  try {
    return createRequire(index)(`@koromix/koffi-linux-${process.arch}/linux_${process.arch}/koffi.node`) as Koffi;
  } catch {
    // another C library, or another place for the file
    return require('koffi') as Koffi;
  }
}

function load(): Loaded {
  if (loaded !== undefined) return loaded;
  if (failure !== undefined) throw failure;
  try {
    const koffi = loadKoffi();
    if (koffi.sizeof('long') !== 8) throw new Error('this is not a 64-bit system');
    loaded = { koffi, library: koffi.load(null) };
    return loaded;
  } catch (cause) {
    failure = new ImgfuseError(
      'unsupported',
      'the optional npm package koffi is missing or does not work here, and this needs it (npm install koffi)',
      { operation: 'koffi' },
      cause,
    );
    throw failure;
  }
}

/** Whether the system calls of this folder can be used at all. */
export function nativeAvailable(): boolean {
  try {
    load();
    return true;
  } catch {
    return false;
  }
}

/**
 * Declares a C function; it is looked up when it is first called.
 * @param declare the declaration, made with the loaded koffi
 */
export function lazyFunction(
  name: string,
  declare: string | ((koffi: Koffi, library: Library) => NativeFunction),
): NativeFunction {
  let bound: NativeFunction | undefined;
  return (...parameters) => {
    if (bound === undefined) {
      const { koffi, library } = load();
      try {
        bound = typeof declare === 'string' ? library.func(declare) : declare(koffi, library);
      } catch (cause) {
        throw new ImgfuseError('unsupported', `the C library has no ${name}()`, { operation: name }, cause);
      }
    }
    return bound(...parameters);
  };
}

/** errno of the last call of this thread. */
export function lastErrno(): number {
  return load().koffi.errno();
}

/** The result when it is not negative; otherwise the error that errno says. */
export function checked(result: number, operation: string, subject?: string): number {
  if (result >= 0) return result;
  throw systemCallError(operation, lastErrno(), subject);
}
