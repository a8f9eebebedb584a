// Mounting on the kernel transport: by mount(2) as root, by fusermount3 otherwise, or on a descriptor that another
// program has mounted already (/dev/fd/N). Invariant: mountKernel returns a mount that has answered INIT, or throws and
// leaves nothing mounted and nothing open.

import * as fs from 'node:fs';
import { endianness } from 'node:os';
import { basename, dirname } from 'node:path';
import { hostPath, nameOfBytes } from '../bytes/names.ts';
import { ImgfuseError } from '../errors/index.ts';
import { mount } from '../native/index.ts';
import { Device, FUSE_DEVICE, openDevice } from './device.ts';
import { fusermountMount } from './fusermount.ts';
import { serveInit } from './handshake.ts';
import { type FuseMountOptions, fusermountOptions, mountData, mountFlagBits } from './mount-flags.ts';
import { canonicalMountpoint, FUSE_TYPE, findAnyMount, type MountEntry, readMountTable } from './mount-table.ts';
import { requestTimeouts, wantedTimeout } from './request-timeout.ts';
import { KernelSession } from './session.ts';
import { unmountPath } from './unmount.ts';

export interface KernelMountOptions extends FuseMountOptions {
  /** absolute path of a directory or a regular file, or /dev/fd/N if the program that started us has mounted it */
  readonly mountpoint: string;
  /** writes may be held until the host has space */
  readonly holds?: boolean;
}

const INHERITED = /^\/dev\/fd\/(\d+)$/;
const AT_PAGESZ = 6;

/** Mounts and answers INIT; synchronous. @throws ImgfuseError usage, missing, busy, permission, unsupported, io */
export function mountKernel(options: KernelMountOptions): KernelSession {
  if (endianness() !== 'LE')
    throw new ImgfuseError('unsupported', 'the kernel transport needs a little-endian machine');
  const inherited = INHERITED.exec(options.mountpoint);
  if (inherited !== null) return adoptDescriptor(Number(inherited[1]), options);

  const { mountpoint, mode } = inspectMountpoint(options.mountpoint);
  const fd = process.geteuid?.() === 0 ? mountAsRoot(mountpoint, mode, options) : mountAsUser(mountpoint, options);
  const rootIsFile = mode === fs.constants.S_IFREG;
  const connection = findAnyMount(mountpoint)?.minor;
  return finish(fd, options, { mountpoint, rootIsFile, connection, inherited: false });
}

/**
 * The mountpoint as the mount table will have it and the type of its node.
 * @throws ImgfuseError missing, usage (symbolic link, neither directory nor file), busy (something is mounted there)
 */
export function inspectMountpoint(path: string): { readonly mountpoint: string; readonly mode: number } {
  const mountpoint = canonicalMountpoint(path);
  // the table first: looking at a mountpoint whose server is stuck would block
  const present = findAnyMount(mountpoint);
  if (present !== undefined) {
    const message = `${mountpoint} is a mountpoint already (${present.source}, ${present.type}): unmount that first`;
    throw new ImgfuseError('busy', message, { path: mountpoint });
  }
  const status = fs.lstatSync(hostPath(mountpoint), { throwIfNoEntry: false });
  if (status === undefined) {
    throw new ImgfuseError('missing', `the mountpoint ${mountpoint} does not exist`, { path: mountpoint });
  }
  if (status.isSymbolicLink()) {
    const message = `the mountpoint ${mountpoint} is a symbolic link: give the directory or file that it points to`;
    throw new ImgfuseError('usage', message, { path: mountpoint });
  }
  if (!status.isDirectory() && !status.isFile()) {
    const message = `the mountpoint ${mountpoint} is neither a directory nor a regular file`;
    throw new ImgfuseError('usage', message, { path: mountpoint });
  }
  return { mountpoint, mode: status.mode & fs.constants.S_IFMT };
}

function mountAsRoot(mountpoint: string, mode: number, options: KernelMountOptions): number {
  const flags = mountFlagBits(options);
  const fd = openDevice();
  try {
    const data = mountData(options, fd, mode, process.geteuid!(), process.getegid!());
    mount(options.source, mountpoint, FUSE_TYPE, flags, data);
    return fd;
  } catch (cause) {
    fs.closeSync(fd);
    if (!(cause instanceof ImgfuseError)) throw cause;
    const hint = cause.kind === 'permission' ? ': mounting needs CAP_SYS_ADMIN, which a container may lack' : '';
    throw new ImgfuseError(cause.kind, `${mountpoint} cannot be mounted${hint}`, cause.context, cause);
  }
}

function mountAsUser(mountpoint: string, options: KernelMountOptions): number {
  return fusermountMount(mountpoint, fusermountOptions(options));
}

/** A descriptor that is mounted already, by mount.fuse3 -o drop_privileges or a program like it. */
function adoptDescriptor(fd: number, options: KernelMountOptions): KernelSession {
  const path = options.mountpoint;
  let target: string | undefined;
  try {
    target = fs.readlinkSync(`/proc/self/fd/${fd}`);
  } catch {
    // not open
  }
  if (target !== FUSE_DEVICE) {
    throw new ImgfuseError('usage', `${path} is not an open descriptor of ${FUSE_DEVICE}`, { path });
  }
  const entry = findMountOfDescriptor(fd);
  assertPermissionsAreChecked(options, entry);
  return finish(fd, options, {
    mountpoint: entry?.mountpoint ?? path,
    rootIsFile: entry !== undefined && isFileUnder(entry.mountpoint),
    connection: entry?.minor,
    inherited: true,
  });
}

/**
 * We never check which user a request comes from: the kernel does, if the program that mounted asked it to.
 * @param entry the mount itself, if the kernel tells which it is; else the options that came with it count
 */
function assertPermissionsAreChecked(options: KernelMountOptions, entry: MountEntry | undefined): void {
  const isOpen = entry?.options.includes('allow_other') ?? options.allowOther;
  const isChecked = entry?.options.includes('default_permissions') ?? options.defaultPermissions;
  if (!isOpen || isChecked) return;
  const message = 'allow_other without default_permissions would let every user write the disk: mount it with both';
  throw new ImgfuseError('usage', message, { path: entry?.mountpoint ?? options.mountpoint });
}

/** Newer kernels print the number of the connection, which is the minor number of the mounted device. */
function findMountOfDescriptor(fd: number): MountEntry | undefined {
  const info = fs.readFileSync(`/proc/self/fdinfo/${fd}`, 'latin1');
  const connection = /^fuse_connection:\s*(\d+)$/m.exec(info)?.[1];
  if (connection === undefined) return undefined;
  return readMountTable().findLast(
    (entry) => entry.major === 0 && entry.minor === Number(connection) && entry.type.startsWith('fuse'),
  );
}

/**
 * Whether a mountpoint that is mounted over is a regular file, from the directory that it stands in: asking the mount
 * itself would wait for an answer that we have yet to give.
 */
function isFileUnder(mountpoint: string): boolean {
  try {
    const entries = fs.readdirSync(hostPath(dirname(mountpoint)), { withFileTypes: true, encoding: 'buffer' });
    return entries.some((entry) => nameOfBytes(entry.name) === basename(mountpoint) && entry.isFile());
  } catch {
    return false;
  }
}

interface Mounted {
  readonly mountpoint: string;
  readonly rootIsFile: boolean;
  readonly connection: number | undefined;
  readonly inherited: boolean;
}

function finish(fd: number, { holds }: KernelMountOptions, mounted: Mounted): KernelSession {
  try {
    const protocol = serveInit(new Device(fd), pageSize(), wantedTimeout(requestTimeouts()), holds);
    return new KernelSession({ fd, protocol, ...mounted });
  } catch (error) {
    // closing the only descriptor ends the connection, so that what is left in the table can be detached at once
    if (!mounted.inherited) {
      fs.closeSync(fd);
      unmountPath(mounted.mountpoint, { lazy: true });
    }
    throw error;
  }
}

/** Bytes of a page of this kernel, from the auxiliary vector; 4096 if that cannot be read. */
function pageSize(): number {
  try {
    const vector = fs.readFileSync('/proc/self/auxv');
    for (let offset = 0; offset + 16 <= vector.length; offset += 16) {
      if (vector.readUInt32LE(offset) === AT_PAGESZ) return vector.readUInt32LE(offset + 8);
    }
  } catch {
    // no /proc
  }
  return 4096;
}
