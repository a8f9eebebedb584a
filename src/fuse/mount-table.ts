// The mounts of this process's mount namespace, from /proc/self/mountinfo. Never touches a mountpoint: one whose server
// is dead or stuck would block the caller.
//
//   36 35 98:0 /root /mountpoint rw,noatime shared:1 - fuse.imgfuse /source rw,user_id=0,...
//   id parent dev root mountpoint options tags...   - type         source  super options

import * as fs from 'node:fs';
import { nameOfBytes } from '../bytes/names.ts';
import { ImgfuseError } from '../errors/index.ts';
import { absolutePath, entryPath } from '../host/canonical-path.ts';

export const FUSE_TYPE = 'fuse.imgfuse';

export interface MountEntry {
  readonly id: number;
  readonly mountpoint: string;
  readonly source: string;
  readonly type: string;
  readonly major: number;
  /** minor number of the device: for FUSE the number of the connection */
  readonly minor: number;
  readonly readOnly: boolean;
  /** options of the mount, then those of the filesystem */
  readonly options: readonly string[];
}

/** Entries in the order of the table: of two at one mountpoint the later covers the earlier. */
export function parseMountInfo(text: Buffer): MountEntry[] {
  // latin1 keeps every byte apart until the escapes are decoded; only then is it a name
  return text
    .toString('latin1')
    .split('\n')
    .filter((line) => line !== '')
    .map(parseLine)
    .filter((entry) => entry !== undefined);
}

function parseLine(line: string): MountEntry | undefined {
  const fields = line.split(' ');
  const separator = fields.indexOf('-', 6);
  const [major, minor] = (fields[2] ?? '').split(':').map(Number);
  if (separator < 0 || major === undefined || minor === undefined) return undefined;
  const mountOptions = (fields[5] ?? '').split(',');
  const superOptions = (fields[separator + 3] ?? '').split(',');
  return {
    id: Number(fields[0]),
    mountpoint: decodeField(fields[4] ?? ''),
    source: decodeField(fields[separator + 2] ?? ''),
    type: decodeField(fields[separator + 1] ?? ''),
    major,
    minor,
    readOnly: mountOptions.includes('ro') || superOptions.includes('ro'),
    options: [...new Set([...mountOptions, ...superOptions].map(decodeField))].filter((option) => option !== ''),
  };
}

/** Decodes \ooo (space, tab, newline, backslash, #). @param field one character per byte */
function decodeField(field: string): string {
  const bytes = field.replace(/\\([0-7]{3})/g, (_, digits: string) => String.fromCharCode(Number.parseInt(digits, 8)));
  return nameOfBytes(Buffer.from(bytes, 'latin1'));
}

/** Every mount of every type. */
export function readMountTable(): MountEntry[] {
  return parseMountInfo(fs.readFileSync('/proc/self/mountinfo'));
}

/** Every mount in the mount namespace of a process; none if it has ended or this user may not look. */
export function mountsSeenBy(pid: number): MountEntry[] {
  try {
    return parseMountInfo(fs.readFileSync(`/proc/${pid}/mountinfo`));
  } catch {
    return [];
  }
}

/** The type that we mount with, and what mount.fuse3 makes of "PATH/imgfuse#IMAGE". */
export function isImgfuse({ type }: MountEntry): boolean {
  return /^fuse\.(.*\/)?imgfuse$/.test(type);
}

/** The mounts of imgfuse. */
export function listMounts(): MountEntry[] {
  return readMountTable().filter(isImgfuse);
}

/** The imgfuse mount that is seen at `path`, or undefined if there is none or another mount covers it. */
export function findMount(path: string): MountEntry | undefined {
  const entry = findAnyMount(path);
  return entry !== undefined && isImgfuse(entry) ? entry : undefined;
}

/**
 * The places where the file system of a FUSE connection is mounted, latest first: none, its mountpoint, where that was moved to,
 * and wherever else it was bound. Other mount namespaces are not seen.
 */
export function mountsOfConnection(connection: number): MountEntry[] {
  return readMountTable()
    .filter((entry) => entry.major === 0 && entry.minor === connection)
    .reverse();
}

/** The mount of any type that is seen at `path`. */
export function findAnyMount(path: string): MountEntry | undefined {
  const mountpoint = canonicalMountpoint(path);
  return readMountTable().findLast((entry) => entry.mountpoint === mountpoint);
}

/**
 * The path as the mount table has it: symbolic links of the parent resolved, the last component left alone.
 * @throws ImgfuseError missing if the parent does not exist
 */
export function canonicalMountpoint(path: string): string {
  try {
    return entryPath(path);
  } catch (cause) {
    const absolute = absolutePath(path);
    throw new ImgfuseError('missing', `${absolute} does not exist`, { path: absolute }, cause);
  }
}
