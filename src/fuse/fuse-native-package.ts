// The fuse-native package as we use it: declarations of the part that we call, and its loading. It is an optional
// dependency with one prebuilt binary (Linux x64, glibc, libfuse.so.2); where that does not load, nothing else breaks.

import { createRequire } from 'node:module';
import { ImgfuseError } from '../errors/index.ts';

/** Answers an operation: 0 or a negative errno; for read, write and xattrs a positive number is a count of bytes. */
export type Answer<T extends readonly unknown[] = []> = (result: number, ...values: T) => void;

export interface NativeStat {
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly size: number;
  readonly nlink: number;
  readonly ino: number;
  readonly blksize: number;
  readonly blocks: number;
  /** milliseconds since the epoch */
  readonly atime: number;
  readonly mtime: number;
  readonly ctime: number;
}

/** All fields are 32 bits wide on their way to the kernel. */
export interface NativeStatfs {
  readonly bsize: number;
  readonly frsize: number;
  readonly blocks: number;
  readonly bfree: number;
  readonly bavail: number;
  readonly files: number;
  readonly ffree: number;
  readonly favail: number;
  readonly namemax: number;
}

/** The order of parameters is that of the compiled part, which for fsync differs from the package's README. */
export interface NativeOperations {
  getattr(path: string, answer: Answer<[NativeStat?]>): void;
  fgetattr(path: string, fd: number, answer: Answer<[NativeStat?]>): void;
  readdir(path: string, answer: Answer<[(readonly string[])?]>): void;
  create(path: string, mode: number, answer: Answer): void;
  mknod(path: string, mode: number, device: number, answer: Answer): void;
  mkdir(path: string, mode: number, answer: Answer): void;
  unlink(path: string, answer: Answer): void;
  rmdir(path: string, answer: Answer): void;
  rename(from: string, to: string, answer: Answer): void;
  link(from: string, to: string, answer: Answer): void;
  symlink(target: string, path: string, answer: Answer): void;
  truncate(path: string, size: number, answer: Answer): void;
  ftruncate(path: string, fd: number, size: number, answer: Answer): void;
  chmod(path: string, mode: number, answer: Answer): void;
  chown(path: string, uid: number, gid: number, answer: Answer): void;
  utimens(path: string, atimeMs: number, mtimeMs: number, answer: Answer): void;
  open(path: string, flags: number, answer: Answer<[number?]>): void;
  release(path: string, fd: number, answer: Answer): void;
  read(path: string, fd: number, target: Buffer, length: number, offset: number, answer: Answer): void;
  write(path: string, fd: number, source: Buffer, length: number, offset: number, answer: Answer): void;
  flush(path: string, fd: number, answer: Answer): void;
  fsync(path: string, dataOnly: number, fd: number, answer: Answer): void;
  fsyncdir(path: string, dataOnly: number, fd: number, answer: Answer): void;
  statfs(path: string, answer: Answer<[NativeStatfs?]>): void;
  getxattr(path: string, name: string, position: number, answer: Answer<[Buffer?]>): void;
  listxattr(path: string, answer: Answer<[(readonly string[])?]>): void;
}

export interface NativeOptions {
  readonly timeout: false;
  readonly fsname: string;
  readonly subtype: string;
  readonly allowOther: boolean;
  readonly defaultPermissions: boolean;
  readonly maxRead?: number;
}

export interface NativeMount {
  mount(done: (error: Error | null) => void): void;
  /** Lets the event loop end; unmounts through FuseNative.unmount first. */
  close(done: (error: Error | null) => void): void;
}

export interface FuseNative {
  new (mountpoint: string, operations: NativeOperations, options: NativeOptions): NativeMount;
  unmount: (mountpoint: string, done: (error: Error | null) => void) => void;
}

let loaded: FuseNative | undefined;

/** @throws ImgfuseError unsupported, with the reason as its cause */
export function loadFuseNative(): FuseNative {
  if (loaded !== undefined) return loaded;
  try {
    const fuseNative = createRequire(import.meta.url)('fuse-native') as FuseNative;
    // the package's own unmount is lazy and hands the path to a shell; by the time it is called we have unmounted
    fuseNative.unmount = (_mountpoint, done) => done(null);
    loaded = fuseNative;
    return fuseNative;
  } catch (cause) {
    throw new ImgfuseError(
      'unsupported',
      'the fuse-native transport does not work here: it needs the optional npm package fuse-native, x64 glibc ' +
        'and libfuse.so.2 (Debian: libfuse2)',
      { operation: 'fuse-native' },
      cause,
    );
  }
}

export function fuseNativeAvailable(): boolean {
  try {
    loadFuseNative();
    return true;
  } catch {
    return false;
  }
}
