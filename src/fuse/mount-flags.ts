// Options of a mount: which of mount(8)'s generic flags become bits of mount(2), which are passed on to fusermount3,
// and the option strings of both. Pure.

import { ImgfuseError } from '../errors/index.ts';
import {
  MS_DIRSYNC,
  MS_LAZYTIME,
  MS_NOATIME,
  MS_NODEV,
  MS_NODIRATIME,
  MS_NOEXEC,
  MS_NOSUID,
  MS_NOSYMFOLLOW,
  MS_RDONLY,
  MS_STRICTATIME,
  MS_SYNCHRONOUS,
} from '../native/index.ts';
import { MAX_WRITE } from './protocol.ts';

/** What a mount is asked for; both transports take it. */
export interface FuseMountOptions {
  /** what the mount table shows as the source: the path of the image */
  readonly source: string;
  readonly readOnly: boolean;
  readonly allowOther: boolean;
  /** the kernel checks owner and mode; for an inherited mount: whether it was made with this option */
  readonly defaultPermissions: boolean;
  /** largest READ in bytes; the protocol's limit if it is absent or larger */
  readonly maxRead?: number;
  /** generic flags of mount(8): nodev, nosuid, noexec, noatime, sync, dirsync, ... */
  readonly flags: readonly string[];
}

interface GenericFlag {
  /** bit of mount(2); 0 = what the kernel does anyway */
  readonly bit: number;
  /** whether every fusermount3 takes it: older ones refuse newer flags, and all refuse those that only root may use */
  readonly unprivileged: boolean;
}

const GENERIC_FLAGS: Readonly<Record<string, GenericFlag>> = {
  defaults: { bit: 0, unprivileged: false },
  rw: { bit: 0, unprivileged: false },
  ro: { bit: MS_RDONLY, unprivileged: true },
  dev: { bit: 0, unprivileged: false },
  nodev: { bit: MS_NODEV, unprivileged: true },
  suid: { bit: 0, unprivileged: false },
  nosuid: { bit: MS_NOSUID, unprivileged: true },
  exec: { bit: 0, unprivileged: false },
  noexec: { bit: MS_NOEXEC, unprivileged: true },
  async: { bit: 0, unprivileged: false },
  sync: { bit: MS_SYNCHRONOUS, unprivileged: true },
  dirsync: { bit: MS_DIRSYNC, unprivileged: true },
  atime: { bit: 0, unprivileged: false },
  noatime: { bit: MS_NOATIME, unprivileged: true },
  diratime: { bit: 0, unprivileged: false },
  nodiratime: { bit: MS_NODIRATIME, unprivileged: false },
  relatime: { bit: 0, unprivileged: false },
  norelatime: { bit: 0, unprivileged: false },
  strictatime: { bit: MS_STRICTATIME, unprivileged: false },
  nostrictatime: { bit: 0, unprivileged: false },
  lazytime: { bit: MS_LAZYTIME, unprivileged: false },
  nolazytime: { bit: 0, unprivileged: false },
  symfollow: { bit: 0, unprivileged: false },
  nosymfollow: { bit: MS_NOSYMFOLLOW, unprivileged: false },
};

/** The flags that an ordinary user asked for and does not get, because fusermount3 may refuse them. */
export function flagsLeftOut(flags: readonly string[]): string[] {
  return flags.filter((flag) => genericFlag(flag).bit !== 0 && !genericFlag(flag).unprivileged);
}

/** Bits of mount(2). @throws ImgfuseError usage for a flag that does not exist */
export function mountFlagBits(options: FuseMountOptions): number {
  const bits = options.flags.reduce((all, flag) => all | genericFlag(flag).bit, 0);
  return options.readOnly ? bits | MS_RDONLY : bits;
}

/**
 * The data string of mount(2).
 * @param rootMode S_IFDIR or S_IFREG
 */
export function mountData(options: FuseMountOptions, fd: number, rootMode: number, uid: number, gid: number): string {
  return [
    `fd=${fd}`,
    `rootmode=${rootMode.toString(8)}`,
    `user_id=${uid}`,
    `group_id=${gid}`,
    ...commonOptions(options),
  ].join(',');
}

/** The -o string of fusermount3. */
export function fusermountOptions(options: FuseMountOptions): string {
  const flags = options.flags.filter((flag) => genericFlag(flag).unprivileged);
  if (options.readOnly && !flags.includes('ro')) flags.push('ro');
  // fusermount3 takes a comma inside a value if a backslash stands before it
  const source = options.source.replace(/[\\,]/g, '\\$&');
  return [...flags, `fsname=${source}`, 'subtype=imgfuse', ...commonOptions(options)].join(',');
}

function commonOptions(options: FuseMountOptions): string[] {
  const common = [`max_read=${maxRead(options)}`];
  if (options.allowOther) common.push('allow_other');
  if (options.defaultPermissions) common.push('default_permissions');
  return common;
}

/** Always given: without it a kernel with large pages asks for more than one reply buffer holds. */
function maxRead(options: FuseMountOptions): number {
  const wanted = options.maxRead ?? MAX_WRITE;
  if (!Number.isSafeInteger(wanted) || wanted < 4096) {
    throw new ImgfuseError('usage', `max_read=${wanted} is not a number of bytes from 4096 on`);
  }
  return Math.min(wanted, MAX_WRITE);
}

function genericFlag(flag: string): GenericFlag {
  const found = Object.hasOwn(GENERIC_FLAGS, flag) ? GENERIC_FLAGS[flag] : undefined;
  if (found === undefined) throw new ImgfuseError('usage', `the mount flag ${flag} is not known`);
  return found;
}
