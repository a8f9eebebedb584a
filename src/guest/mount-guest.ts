// Mounts one file system of a guest from the raw file of its disk: mount(8) makes a loop device that the kernel frees by itself, so
// a kill at any moment leaves the mount or nothing. Without root, or without loop devices, a program serves the file system.
// Invariant: read-only means that nothing of it writes, not even the replay of a journal.

import { dirname, join } from 'node:path';
import { ImgfuseError } from '../errors/index.ts';
import { type MountEntry, readMountTable } from '../fuse/mount-table.ts';
import { pathKind } from '../host/canonical-path.ts';
import { readText } from '../host/small-files.ts';
import { ownUid } from '../mounts/runtime-directory.ts';
import { cloneFault, type FileSystem, fileSystem, type UserSpaceServer } from './file-systems.ts';
import { type ProgramEnd, runProgram } from './programs.ts';

/** A file system in the raw file of a disk. */
export interface GuestFileSystem {
  readonly raw: string;
  /** null: the whole disk */
  readonly number: number | null;
  /** bytes */
  readonly start: number;
  readonly size: number;
  readonly type: string;
  readonly uuid: string | null;
  /** its journal holds changes that are not in place yet */
  readonly needsReplay: boolean;
}

/** How to mount it. */
export interface GuestMountOptions {
  readonly readOnly: boolean;
  /** for mount(8), as the user wrote them; a later one wins */
  readonly options: readonly string[];
  /** for a program that serves it: other users may look */
  readonly allowOther: boolean;
  readonly abort: AbortSignal;
}

export interface MountedGuest {
  readonly readOnly: boolean;
  /** its journal holds changes that were not replayed, so the newest files may be missing or torn */
  readonly journalLeft: boolean;
  /** "served by PROGRAM, because ...": what serves it instead of the kernel; null if the kernel does */
  readonly served: string | null;
}

/** Images come from anywhere: no program of a guest runs with its owner's rights, and no device node of it is one here. */
const CAREFUL = ['nosuid', 'nodev'];

const NO_LOOP_DEVICE = 'no loop device can be used here';

/** @throws ImgfuseError what mount(8) says, and what to do */
export async function mountGuest(
  guest: GuestFileSystem,
  directory: string,
  how: GuestMountOptions,
): Promise<MountedGuest> {
  const fault = cloneFault(guest.type, guest.uuid);
  if (fault !== null) throw new ImgfuseError('busy', fault, { path: directory });
  const known = fileSystem(guest.type);
  if (canUseLoopDevices()) return mountWithKernel(guest, known, directory, how);
  const why = ownUid() === 0 ? NO_LOOP_DEVICE : 'only root can let the kernel mount it';
  return mountWithProgram(guest, known, directory, how, why);
}

/** Root of a user namespace may not mount from a block device, and many containers have no loop devices. */
function canUseLoopDevices(): boolean {
  const isRealRoot =
    ownUid() === 0 && /^\s*0\s+0\s+4294967295/.test(readText('/proc/self/uid_map') ?? '0 0 4294967295');
  return isRealRoot && pathKind('/dev/loop-control') !== 'missing';
}

async function mountWithKernel(
  guest: GuestFileSystem,
  known: FileSystem,
  directory: string,
  how: GuestMountOptions,
): Promise<MountedGuest> {
  const { raw, start, size, type } = guest;
  const loop = ['loop', `offset=${start}`, `sizelimit=${size}`];
  const access = how.readOnly ? 'ro' : 'rw';
  const options = [...loop, access, ...CAREFUL, ...(known.always ?? []), ...how.options.map(quoteCommas)];
  let failed: ProgramEnd | null = null;
  for (const driver of known.drivers ?? [type]) {
    const mount = (extra: readonly string[]): Promise<ProgramEnd> =>
      runProgram('mount', ['-t', driver, '-o', [...options, ...extra].join(','), '--', raw, directory], how.abort);
    const ended = await mount([]);
    if (ended.code === 0) return describe(directory, false, null);
    failed = ended;
    // a container that may not use the loop devices of its machine
    if (/failed to setup loop device/i.test(ended.complaint)) {
      return mountWithProgram(guest, known, directory, how, NO_LOOP_DEVICE);
    }
    if (isUnknown(ended)) continue;
    if (!how.readOnly || known.withoutReplay === undefined || how.abort.aborted) break;
    if ((await mount([known.withoutReplay])).code === 0) return describe(directory, true, null);
    break;
  }
  if (isUnknown(failed!) && known.program !== undefined) {
    return mountWithProgram(guest, known, directory, how, 'this kernel has no driver for it');
  }
  throw mountError(guest, known, directory, failed!, how.options);
}

function isUnknown({ complaint }: ProgramEnd): boolean {
  return /unknown filesystem type/i.test(complaint);
}

function mountError(
  { type }: GuestFileSystem,
  known: FileSystem,
  directory: string,
  end: ProgramEnd,
  options: readonly string[],
): ImgfuseError {
  if (end.missing) return new ImgfuseError('missing', 'mount(8) is not in the PATH: install util-linux', {});
  if (!isUnknown(end)) {
    const said = end.complaint.replace(/^mount: /, '').replace(`${directory}: `, '');
    const given = options.length === 0 ? '' : ` with -o ${options.join(',')}`;
    return new ImgfuseError('io', `${type} cannot be mounted at ${directory}${given}: ${said}`, { path: directory });
  }
  const cure = known.cure ?? `load its module (modprobe ${type}), or use a kernel that has it`;
  const message = `it holds ${type}, which neither this kernel nor a program here can mount: ${cure}`;
  return new ImgfuseError('unsupported', message, { path: directory });
}

/** @param why the kernel does not mount it */
async function mountWithProgram(
  guest: GuestFileSystem,
  known: FileSystem,
  directory: string,
  how: GuestMountOptions,
  why: string,
): Promise<MountedGuest> {
  const { program } = known;
  if (program === undefined) {
    const place = guest.number === null ? 'disk.raw' : `partitions/${guest.number}.raw`;
    const hint = `its bytes can be read without: imgfuse mount IMAGE DIR shows them as DIR/${place}`;
    throw withoutRoot(guest.type, `no program here mounts it without root; ${hint}`);
  }
  const { file, offset } = fileOf(guest);
  const access = [...(how.readOnly ? ['ro'] : []), ...(how.allowOther ? ['allow_other'] : [])];
  const source = program.hidesFile === true ? [`fsname=${file.replaceAll(/[\\,]/g, '\\$&')}`] : [];
  const options = [...offset, ...program.options, ...source, ...access, ...how.options.map(quoteCommas)];
  const mount = (extra: readonly string[]): Promise<ProgramEnd> =>
    runProgram(program.name, ['-o', [...options, ...extra].join(','), file, directory], how.abort);
  if (!how.readOnly && guest.needsReplay) await replay(guest, program, how.abort);
  const first = await mount([]);
  if (first.missing) throw notInstalled(guest.type, program);
  const served = `served by ${program.name}, because ${why}`;
  if (isServed(directory)) return describe(directory, false, served);
  let said = first.complaint;
  if (how.readOnly && program.withoutReplay !== undefined && !how.abort.aborted) {
    const second = await mount([program.withoutReplay]);
    if (isServed(directory)) return describe(directory, true, served);
    said = second.complaint;
  }
  const message = `${program.name} cannot mount the ${guest.type} at ${directory}: ${said || 'it gave no reason'}`;
  throw new ImgfuseError('io', message, { path: directory });
}

/** A partition has a file of its own; programs are wrong about an offset more often than about the start of a file. */
function fileOf({ raw, number, start }: GuestFileSystem): {
  readonly file: string;
  readonly offset: readonly string[];
} {
  const own = join(dirname(raw), 'partitions', `${number}.raw`);
  if (number !== null && pathKind(own) === 'file') return { file: own, offset: [] };
  return { file: raw, offset: start === 0 ? [] : [`offset=${start}`] };
}

/** @throws ImgfuseError if the journal cannot be replayed: writing beside it would lose what it holds */
async function replay(guest: GuestFileSystem, { replay: words }: UserSpaceServer, abort: AbortSignal): Promise<void> {
  const { file, offset } = fileOf(guest);
  if (words === undefined) return;
  const [program, ...parameters] = words;
  const { code, missing, complaint } = await runProgram(program, [...parameters, [file, ...offset].join('?')], abort);
  if (code === 0 || code === 1) return;
  const why = missing ? `${program} is not installed` : complaint;
  throw new ImgfuseError(
    'io',
    `the journal of the ${guest.type} cannot be replayed (${why}); attach it with -o ro`,
    {},
  );
}

/** Whether a program serves the directory, and has not crashed at the first request. */
function isServed(directory: string): boolean {
  return findGuest(directory) !== undefined && pathKind(directory) === 'directory';
}

function notInstalled(type: string, { name, package: debian }: UserSpaceServer): ImgfuseError {
  return withoutRoot(type, `${name}, which mounts it without root, is not installed (Debian: apt install ${debian})`);
}

function withoutRoot(type: string, why: string): ImgfuseError {
  const needs = ownUid() === 0 ? 'loop devices, which cannot be used here' : 'root (sudo imgfuse attach ...)';
  return new ImgfuseError('permission', `mounting ${type} needs ${needs}, and ${why}`);
}

/** A value with a comma stays one option for mount(8). */
function quoteCommas(option: string): string {
  const equals = option.indexOf('=');
  return option.includes(',') ? `${option.slice(0, equals + 1)}"${option.slice(equals + 1)}"` : option;
}

function describe(directory: string, journalLeft: boolean, served: string | null): MountedGuest {
  return { readOnly: findGuest(directory)?.readOnly ?? true, journalLeft, served };
}

/** The mount at a directory, which was looked at before: nothing of the guest was mounted there then. */
function findGuest(directory: string): MountEntry | undefined {
  return readMountTable().findLast((entry) => entry.mountpoint === directory);
}
