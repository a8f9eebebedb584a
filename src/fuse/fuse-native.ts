// The fuse-native transport: the same Filesystem on the main thread, through the npm package and libfuse 2.
// Invariant: `ended` settles only when libfuse has closed its descriptor, so that after a lazy unmount the image stays
// open as long as somebody uses it.

import { execFile } from 'node:child_process';
import * as fs from 'node:fs';
import { describeError, ImgfuseError } from '../errors/index.ts';
import { FUSE_DEVICE } from './device.ts';
import type { Filesystem, LateFilesystem } from './filesystem.ts';
import { nativeOperations } from './fuse-native-operations.ts';
import { loadFuseNative, type NativeMount, type NativeOptions } from './fuse-native-package.ts';
import { inspectMountpoint } from './mount.ts';
import type { FuseMountOptions } from './mount-flags.ts';
import { findMount, mountsOfConnection } from './mount-table.ts';
import { ATTRIBUTE_TIMEOUT_SECONDS } from './reply.ts';
import type { ServerHooks } from './server.ts';
import { abortMount, type UnmountOptions } from './unmount.ts';

export { fuseNativeAvailable } from './fuse-native-package.ts';

export interface FuseNativeOptions extends FuseMountOptions, Pick<ServerHooks, 'counters' | 'onError' | 'shouldStop'> {
  readonly late?: LateFilesystem;
  /** absolute path of a directory */
  readonly mountpoint: string;
}

export interface FuseNativeSession {
  /** canonical path */
  readonly mountpoint: string;
  /** settles when the mount is gone, however it was unmounted */
  readonly ended: Promise<void>;
  /** Resolves when the mount is gone from the mount table. Rejects busy, missing, permission. */
  unmount(options?: UnmountOptions): Promise<void>;
  /**
   * Ends the connection by force; the mount stays in the table until it is unmounted.
   * @throws ImgfuseError unsupported where the connection is not known or cannot be reached, permission
   */
  abort(): void;
}

/** How often we look whether the mount has ended; there is no event for it. */
const WATCH_INTERVAL_MS = 250;
/** the compiled part cuts the option string and the mountpoint at 1024 bytes */
const NATIVE_STRING_MAX = 1000;
/** what libfuse 2 takes; the rest of mount(8)'s generic flags has no effect on what we serve */
const LIBFUSE_FLAGS: readonly string[] = ['nodev', 'nosuid', 'noexec', 'noatime', 'sync', 'dirsync'];

/** @throws ImgfuseError (by rejection) unsupported, usage, missing, busy, permission, io */
export async function mountFuseNative(options: FuseNativeOptions, filesystem: Filesystem): Promise<FuseNativeSession> {
  const FuseNative = loadFuseNative();
  const { mountpoint, mode } = inspectMountpoint(options.mountpoint);
  if (mode !== fs.constants.S_IFDIR) {
    const message = `fuse-native cannot mount on the file ${mountpoint}: use --transport kernel, or a directory`;
    throw new ImgfuseError('unsupported', message, { path: mountpoint });
  }
  const before = fuseDescriptors();
  const nativeMount = new FuseNative(mountpoint, nativeOperations(filesystem, options), libfuseOptions(options));
  await new Promise<void>((done, fail) => {
    nativeMount.mount((error) => (error ? fail(mountError(mountpoint, error)) : done()));
  });
  const descriptor = fuseDescriptors().find((fd) => !before.includes(fd));
  const connection = findMount(mountpoint)?.minor;
  const ended = watchEnd(mountpoint, connection, descriptor).then(() => release(nativeMount));
  return {
    mountpoint,
    ended,
    unmount: async (unmountOptions = {}) => {
      const places = connection === undefined ? [] : mountsOfConnection(connection);
      if (places.length === 0) {
        throw new ImgfuseError('missing', `${mountpoint} is not mounted by us any more`, { path: mountpoint });
      }
      for (const place of places) await unmountOutside(place.mountpoint, unmountOptions.lazy === true);
    },
    abort: () => abortMount(mountpoint, connection),
  };
}

function libfuseOptions(options: FuseNativeOptions): NativeOptions {
  const flags = options.flags.filter((flag) => LIBFUSE_FLAGS.includes(flag));
  if (options.readOnly) flags.push('ro');
  // The package has no option for these. Whatever follows a comma in the subtype reaches libfuse as further options.
  // big_writes: without it every WRITE has 4 KiB. direct_io: no handle uses pages of the kernel, because libfuse 2 lets us drop them
  // only at an opening, which may be beside a writer: see KernelPages. attr_timeout: see ATTRIBUTE_TIMEOUT_SECONDS in reply.ts.
  const timeout = `attr_timeout=${ATTRIBUTE_TIMEOUT_SECONDS}`;
  const extra = ['big_writes', 'max_write=131072', 'direct_io', 'use_ino', 'atomic_o_trunc', timeout, ...flags];
  const native: NativeOptions = {
    timeout: false,
    fsname: options.source.replace(/[\\,]/g, '\\$&'),
    subtype: ['imgfuse', ...extra].join(','),
    allowOther: options.allowOther,
    defaultPermissions: options.defaultPermissions,
    ...(options.maxRead === undefined ? {} : { maxRead: options.maxRead }),
  };
  if (!native.fsname.isWellFormed() || !options.mountpoint.isWellFormed()) {
    throw new ImgfuseError('unsupported', 'fuse-native cannot take names that are not UTF-8: use --transport kernel');
  }
  const length = Buffer.byteLength(native.fsname) + native.subtype.length + 100;
  if (length > NATIVE_STRING_MAX || Buffer.byteLength(options.mountpoint) > NATIVE_STRING_MAX) {
    throw new ImgfuseError('unsupported', 'fuse-native cannot take paths this long: use --transport kernel');
  }
  return native;
}

/** Descriptors of /dev/fuse that this process has open. */
function fuseDescriptors(): number[] {
  return fs
    .readdirSync('/proc/self/fd')
    .map(Number)
    .filter((fd) => isFuseDescriptor(fd));
}

function isFuseDescriptor(fd: number): boolean {
  try {
    return fs.readlinkSync(`/proc/self/fd/${fd}`) === FUSE_DEVICE;
  } catch {
    return false;
  }
}

function watchEnd(mountpoint: string, connection: number | undefined, descriptor: number | undefined): Promise<void> {
  return new Promise((done) => {
    const timer = setInterval(() => {
      const gone =
        descriptor === undefined ? findMount(mountpoint)?.minor !== connection : !isFuseDescriptor(descriptor);
      if (!gone) return;
      clearInterval(timer);
      done();
    }, WATCH_INTERVAL_MS);
  });
}

function release(nativeMount: NativeMount): Promise<void> {
  return new Promise((done) => {
    nativeMount.close(() => done());
  });
}

/**
 * Unmounts through another process: an unmount may have to write what is cached, and this thread is the one that serves
 * those writes. No helper (-i): /sbin/umount.fuse.imgfuse would ask us to do it.
 */
function unmountOutside(mountpoint: string, lazy: boolean): Promise<void> {
  const isRoot = process.geteuid?.() === 0;
  const command = isRoot ? 'umount' : 'fusermount';
  const parameters = isRoot ? ['-i', '-c', ...(lazy ? ['-l'] : [])] : ['-u', ...(lazy ? ['-z'] : [])];
  return new Promise((done, fail) => {
    const settings = { cwd: '/', env: { ...process.env, LC_ALL: 'C' } };
    execFile(command, [...parameters, '--', mountpoint], settings, (error, _stdout, stderr) => {
      if (error === null) return done();
      const kind = /busy/i.test(stderr) ? 'busy' : /permi|not allowed|superuser/i.test(stderr) ? 'permission' : 'io';
      const said = stderr.trim().replaceAll('\n', '; ') || describeError(error);
      fail(new ImgfuseError(kind, said, { path: mountpoint, operation: 'umount' }, error));
    });
  });
}

function mountError(mountpoint: string, cause: Error): ImgfuseError {
  const message = `${mountpoint} cannot be mounted by fuse-native; libfuse has printed why`;
  return new ImgfuseError('io', message, { path: mountpoint, operation: 'mount' }, cause);
}
