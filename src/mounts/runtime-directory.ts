// The runtime directory: one record (.json), one control socket (.sock) and one log (.log) for each mount, named after the
// process. Invariants: only the owner can enter the directory. A record is alive only while a process with its pid AND its start
// time runs as that user. Root reads the records of every user, trusts them only about that user's own processes and mounts, and
// never changes or waits for the files of another user. A mount process holds its record and its socket open, so that
// lost-records.ts finds them even if the directory is gone.

import { randomBytes } from 'node:crypto';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ImgfuseError } from '../errors/index.ts';
import { absolutePath } from '../host/canonical-path.ts';
import { closeDescriptor, holdFile } from '../host/descriptors.ts';
import { processOwner, processStartTime } from '../host/processes.ts';
import {
  makePrivateDirectory,
  makeUniqueDirectory,
  namesIn,
  ownerOf,
  readText,
  readTextOf,
  removeFile,
  writeWhole,
} from '../host/small-files.ts';

const RECORD_MAX_BYTES = 65536;
/** sizeof(sun_path) - 1 */
const SOCKET_PATH_MAX = 107;
/** as makeUniqueDirectory makes them */
const SPARE_NAME = /^imgfuse-(\d+)-[A-Za-z0-9]{6}$/;

/** The facts about a mount that are known without asking its process. */
export interface MountRecord {
  readonly image: string;
  /** the file that takes the changes of the disk, or the directory that it has no name in; absent: the image */
  readonly overlay?: { readonly path: string; readonly isTemporary: boolean };
  readonly mountpoint: string;
  /** "major:minor" of the mounted file system; absent if another program had mounted it before we started */
  readonly device?: string;
  readonly pid: number;
  /** clock ticks since boot, from /proc/PID/stat */
  readonly processStart: number;
  readonly format: string;
  readonly transport: string;
  readonly readOnly: boolean;
  readonly workers: number;
  readonly log: string | null;
  /** present if the process ended and the mount stayed: why, and whether the image was closed clean */
  readonly left?: { readonly reason: string; readonly clean: boolean };
  /** the image is being opened; nothing is mounted yet */
  readonly opening: boolean;
}

/** A record and its file. */
export interface StoredRecord extends MountRecord, RuntimeFiles {
  readonly alive: boolean;
  /** the user whose record it is */
  readonly owner: number;
}

/** The paths of a new mount. The record is written last, when the mount answers. */
export interface RuntimeFiles {
  readonly recordPath: string;
  readonly socketPath: string;
  readonly logPath: string;
}

/** Beside them, the directory of the marks of images that were closed clean. */
export interface PreparedFiles extends RuntimeFiles {
  readonly closedMarks: string;
}

export function ownUid(): number {
  return process.getuid?.() ?? 0;
}

/** The absolute path of the runtime directory that the user has chosen. */
function chosenDirectory(environment: NodeJS.ProcessEnv): string | undefined {
  const chosen = environment['IMGFUSE_RUNTIME_DIR'];
  if (chosen === undefined || chosen === '') return undefined;
  const directory = absolutePath(chosen);
  // Node has already replaced bytes that are not UTF-8, and it takes only UTF-8 for the name of a socket
  if (directory.isWellFormed() && !directory.includes('\ufffd')) return directory;
  throw new ImgfuseError('usage', `IMGFUSE_RUNTIME_DIR=${chosen} is not UTF-8; choose another directory`);
}

/** The environment for a process with another working directory: it keeps the same runtime directory. */
export function withRuntimeDirectory(environment: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  const chosen = chosenDirectory(environment);
  return chosen === undefined ? environment : { ...environment, IMGFUSE_RUNTIME_DIR: chosen };
}

/** Where this user's mounts are recorded, best place first. */
export function ownDirectories(environment: NodeJS.ProcessEnv = process.env, uid: number = ownUid()): string[] {
  const chosen = chosenDirectory(environment);
  if (chosen !== undefined) return [chosen];
  const session = environment['XDG_RUNTIME_DIR'];
  const isOwnSession = session !== undefined && isUsable(session) && ownerOf(session)?.uid === uid;
  return [
    ...(uid === 0 ? ['/run/imgfuse'] : []),
    ...(isOwnSession ? [join(session, 'imgfuse')] : []),
    ...directoriesOfUser(uid === 0 ? outerUid() : uid),
    ...spareDirectories(uid),
  ].filter((directory, index, all) => all.indexOf(directory) === index);
}

function directoriesOfUser(uid: number): string[] {
  return [`/run/user/${uid}/imgfuse`, `/tmp/imgfuse-${uid}`];
}

/** The outside uid of root in a user namespace (unshare -Ur, a rootless container); 0 if that is also root. */
function outerUid(): number {
  return Number(/^\s*0\s+(\d+)/m.exec(readText('/proc/self/uid_map') ?? '')?.[1] ?? 0);
}

/** Whether a path from the environment is absolute and intact; Node loses bytes that are not UTF-8. */
function isUsable(path: string): boolean {
  return path.startsWith('/') && !path.includes('\ufffd');
}

function temporaryDirectories(): string[] {
  return [...new Set([tmpdir(), '/tmp'])].filter(isUsable);
}

/** Directories with a unique name, made because the names above were taken or not accessible. */
function spareDirectories(uid: number): string[] {
  return temporaryDirectories().flatMap((parent) =>
    namesIn(parent)
      .filter((name) => SPARE_NAME.exec(name)?.[1] === String(uid))
      .map((name) => join(parent, name))
      .filter((directory) => distrust(directory, uid) === null),
  );
}

function makeSpareDirectory(): string | null {
  for (const parent of temporaryDirectories()) {
    const directory = makeUniqueDirectory(join(parent, `imgfuse-${ownUid()}-`));
    if (directory !== null) return directory;
  }
  return null;
}

/** Every directory whose mounts this user may ask about: their own; for root, those of all users. */
function readableDirectories(): string[] {
  const own = ownDirectories();
  if (ownUid() !== 0 || chosenDirectory(process.env) !== undefined) return own;
  const sessions = namesIn('/run/user').map((uid) => `/run/user/${uid}/imgfuse`);
  const temporary = namesIn('/tmp').filter((name) => /^imgfuse-\d+$/.test(name) || SPARE_NAME.test(name));
  return [...new Set([...own, ...sessions, ...temporary.map((name) => `/tmp/${name}`)])];
}

/** Why a directory is not safe for the control sockets of a user, as a sentence; null if it is safe. */
function distrust(directory: string, uid: number): string | null {
  const owner = ownerOf(directory);
  if (owner === null) return 'it does not exist';
  if (!owner.isDirectory) return 'it is not a directory';
  if (owner.uid !== uid) return `it belongs to user ${owner.uid}`;
  return (owner.mode & 0o077) === 0 ? null : `others can enter it (mode ${owner.mode.toString(8)}, and 700 is needed)`;
}

/** Makes the runtime directory if it is missing, and names the files of a new mount in it. */
export function prepareRuntimeFiles(): PreparedFiles {
  const reasons: string[] = [];
  for (const directory of ownDirectories()) {
    const files = runtimeFilesIn(directory, reasons);
    if (files !== null) return files;
  }
  const spare = chosenDirectory(process.env) === undefined ? makeSpareDirectory() : null;
  const files = spare === null ? null : runtimeFilesIn(spare, reasons);
  if (files !== null) return files;
  const message = `there is no runtime directory: ${reasons[0]}; set IMGFUSE_RUNTIME_DIR to another`;
  throw new ImgfuseError('permission', message);
}

/** Where this user's images are marked as closed clean; `undefined` if there is no runtime directory. */
export function closedMarksDirectory(): string | undefined {
  try {
    return prepareRuntimeFiles().closedMarks;
  } catch {
    return undefined;
  }
}

/** @param reasons receives a sentence if the directory cannot be used @returns null then */
function runtimeFilesIn(directory: string, reasons: string[]): PreparedFiles | null {
  try {
    makePrivateDirectory(directory);
  } catch (error) {
    reasons.push(`${directory} cannot be made: ${(error as Error).message}`);
    return null;
  }
  const fault = distrust(directory, ownUid());
  if (fault !== null) {
    reasons.push(`${directory} cannot be used: ${fault}`);
    return null;
  }
  const base = join(directory, `${process.pid}-${randomBytes(2).toString('hex')}`);
  const closedMarks = join(directory, 'closed');
  const files = { recordPath: `${base}.json`, socketPath: `${base}.sock`, logPath: `${base}.log`, closedMarks };
  if (Buffer.byteLength(files.socketPath) <= SOCKET_PATH_MAX) return files;
  reasons.push(`${directory} is too long a path for a socket (${SOCKET_PATH_MAX} bytes at most)`);
  return null;
}

/** A record for `mount --output=json`, with the keys of `status`. */
export function recordJson(record: MountRecord): Record<string, unknown> {
  const { image, mountpoint, format, overlay, transport, pid, workers, readOnly, log } = record;
  const taker =
    overlay === undefined
      ? {}
      : {
          overlay: { filename: overlay.isTemporary ? null : overlay.path, temporary: overlay.isTemporary, base: image },
        };
  return { image, mountpoint, format, transport, pid, workers, 'read-only': readOnly, ...taker, log };
}

/** The descriptors of the files of this process's mounts, by record. */
const held = new Map<string, readonly number[]>();

/** Writes a record of this process, and keeps it and its socket open. @throws ImgfuseError io; the file is unchanged then */
export function writeRecord(path: string, record: MountRecord): void {
  try {
    writeText(path, record);
    release(path);
    held.set(path, [holdFile(path), holdFile(socketOf(path))]);
  } catch (cause) {
    throw new ImgfuseError('io', `the record ${path} of the mount cannot be written`, { path }, cause);
  }
}

function writeText(path: string, record: MountRecord): void {
  writeWhole(path, `${JSON.stringify(record, undefined, 2)}\n`, 0o600);
}

function release(recordPath: string): void {
  for (const descriptor of held.get(recordPath) ?? []) closeDescriptor(descriptor);
  held.delete(recordPath);
}

function socketOf(recordPath: string): string {
  return recordPath.replace(/\.json$/, '.sock');
}

/** Every readable record, dead ones included, newest process last. */
export function listRecords(): StoredRecord[] {
  const records: StoredRecord[] = [];
  for (const directory of readableDirectories()) {
    // skip a directory that another user could have prepared; root may read the directories of other users
    const owner = ownUid() === 0 ? (ownerOf(directory)?.uid ?? 0) : ownUid();
    if (distrust(directory, owner) !== null) continue;
    for (const name of namesIn(directory)) {
      if (!name.endsWith('.json')) continue;
      const record = readRecord(join(directory, name), owner);
      if (record !== null) records.push(record);
    }
  }
  return records.sort((a, b) => a.processStart - b.processStart);
}

function readRecord(recordPath: string, owner: number): StoredRecord | null {
  const record = parseRecord(recordPath, owner);
  if (record === null) return null;
  return {
    ...record,
    recordPath,
    socketPath: socketOf(recordPath),
    logPath: recordPath.replace(/\.json$/, '.log'),
    alive: processStartTime(record.pid) === record.processStart && processOwner(record.pid) === owner,
    owner,
  };
}

/** Parses a record that user `owner` wrote; null if it is not a record. */
export function parseRecord(path: string, owner: number): MountRecord | null {
  const text = readTextOf(owner, path, RECORD_MAX_BYTES);
  if (text === null) return null;
  let value: Partial<MountRecord>;
  try {
    value = JSON.parse(text) as Partial<MountRecord>;
  } catch {
    return null;
  }
  if (typeof value.image !== 'string' || typeof value.mountpoint !== 'string') return null;
  if (!Number.isSafeInteger(value.pid) || !Number.isSafeInteger(value.processStart)) return null;
  return value as MountRecord;
}

/** Removes the files of a mount whose process is gone, if they belong to this user. */
export function forgetRecord(record: StoredRecord): void {
  if (record.owner === ownUid()) removeRuntimeFiles(record);
}

/** Removes the files of a mount that ends. If the mount itself has to stay, the record stays, too, and tells why. */
export function leaveRuntimeFiles(
  files: RuntimeFiles,
  record: MountRecord | null,
  reason: string | null,
  clean: boolean,
): void {
  removeRuntimeFiles(files);
  if (record === null || reason === null) return;
  try {
    writeText(files.recordPath, { ...record, left: { reason, clean } });
  } catch {}
}

/** Removes the record and the socket of a mount, but not its log: see removeQuietLog(). */
export function removeRuntimeFiles(files: { recordPath: string; socketPath: string }): void {
  release(files.recordPath);
  removeFile(files.recordPath);
  removeFile(files.socketPath);
}
