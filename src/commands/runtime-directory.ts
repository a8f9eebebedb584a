// The runtime directory: one record (.json), one control socket (.sock) and one log (.log) for each mount, named after
// the process. Invariants: only the owner can enter the directory, and a record counts as alive only while the process
// with its pid AND its start time runs as that user. Root reads the records of every user: they are believed in what they
// say of that user's own processes and mounts, and nothing of theirs is ever changed or waited for on the way.

import { randomBytes } from 'node:crypto';
import { join } from 'node:path';
import { ImgfuseError } from '../errors/index.ts';
import { absolutePath } from '../fuse/mount-table.ts';
import {
  makePrivateDirectory,
  namesIn,
  ownerOf,
  processOwner,
  processStartTime,
  readTextOf,
  removeFile,
  writeWhole,
} from './host-paths.ts';

const RECORD_MAX_BYTES = 65536;
/** sizeof(sun_path) - 1 */
const SOCKET_PATH_MAX = 107;

/** What is known of a mount without asking its process. */
export interface MountRecord {
  readonly image: string;
  readonly mountpoint: string;
  /** "major:minor" of the mounted file system; absent when it was mounted by somebody else before we started */
  readonly device?: string;
  readonly pid: number;
  /** clock ticks since boot, from /proc/PID/stat */
  readonly processStart: number;
  readonly format: string;
  readonly transport: string;
  readonly readOnly: boolean;
  readonly workers: number;
  readonly log: string | null;
}

/** A record and where it lies. */
export interface StoredRecord extends MountRecord, RuntimeFiles {
  readonly alive: boolean;
  /** the user whose record it is */
  readonly owner: number;
}

/** Paths that a new mount uses; the record is written last, when the mount answers. */
export interface RuntimeFiles {
  readonly recordPath: string;
  readonly socketPath: string;
  readonly logPath: string;
}

export function ownUid(): number {
  return process.getuid?.() ?? 0;
}

/** The runtime directory that the user has chosen, absolute. */
function chosenDirectory(environment: NodeJS.ProcessEnv): string | undefined {
  const chosen = environment['IMGFUSE_RUNTIME_DIR'];
  if (chosen === undefined || chosen === '') return undefined;
  const directory = absolutePath(chosen);
  // Node has replaced what is not UTF-8 already, and takes names of sockets as UTF-8 only
  if (directory.isWellFormed() && !directory.includes('\ufffd')) return directory;
  throw new ImgfuseError('usage', `IMGFUSE_RUNTIME_DIR=${chosen} is not UTF-8; choose another directory`);
}

/** The environment for a process with another working directory: the runtime directory stays the one that it is here. */
export function withRuntimeDirectory(environment: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  const chosen = chosenDirectory(environment);
  return chosen === undefined ? environment : { ...environment, IMGFUSE_RUNTIME_DIR: chosen };
}

/** Where this user's mounts are recorded, best place first. */
export function ownDirectories(environment: NodeJS.ProcessEnv = process.env, uid: number = ownUid()): string[] {
  const chosen = chosenDirectory(environment);
  if (chosen !== undefined) return [chosen];
  if (uid === 0) return ['/run/imgfuse'];
  const directories: string[] = [];
  const session = environment['XDG_RUNTIME_DIR'];
  if (session?.startsWith('/') === true && !session.includes('\ufffd')) directories.push(join(session, 'imgfuse'));
  directories.push(...directoriesOfUser(uid));
  return [...new Set(directories)];
}

function directoriesOfUser(uid: number): string[] {
  return [`/run/user/${uid}/imgfuse`, `/tmp/imgfuse-${uid}`];
}

/** Every directory whose mounts this user may ask about: their own, and for root everybody's. */
function readableDirectories(): string[] {
  const own = ownDirectories();
  if (ownUid() !== 0 || chosenDirectory(process.env) !== undefined) return own;
  const sessions = namesIn('/run/user').map((uid) => `/run/user/${uid}/imgfuse`);
  const temporary = namesIn('/tmp').filter((name) => /^imgfuse-\d+$/.test(name));
  return [...own, ...sessions, ...temporary.map((name) => `/tmp/${name}`)];
}

/** The sentence that says why a directory cannot be trusted with control sockets of a user; null when it can. */
function distrust(directory: string, uid: number): string | null {
  const owner = ownerOf(directory);
  if (owner === null) return 'it does not exist';
  if (!owner.isDirectory) return 'it is not a directory';
  if (owner.uid !== uid) return `it belongs to user ${owner.uid}`;
  return (owner.mode & 0o077) === 0
    ? null
    : `others can enter it (mode ${owner.mode.toString(8)}; chmod 700 cures that)`;
}

/** Makes the runtime directory when it is missing and names the files of a new mount in it. */
export function prepareRuntimeFiles(): RuntimeFiles {
  let reason = '';
  for (const directory of ownDirectories()) {
    try {
      makePrivateDirectory(directory);
    } catch (error) {
      reason ||= `${directory} cannot be made: ${(error as Error).message}`;
      continue;
    }
    const fault = distrust(directory, ownUid());
    if (fault !== null) {
      reason ||= `${directory} cannot be used: ${fault}`;
      continue;
    }
    const base = join(directory, `${process.pid}-${randomBytes(2).toString('hex')}`);
    const files = { recordPath: `${base}.json`, socketPath: `${base}.sock`, logPath: `${base}.log` };
    if (Buffer.byteLength(files.socketPath) <= SOCKET_PATH_MAX) return files;
    reason ||= `${directory} is too long a path for a socket (${SOCKET_PATH_MAX} bytes at most)`;
  }
  throw new ImgfuseError('permission', `there is no runtime directory: ${reason}; set IMGFUSE_RUNTIME_DIR to another`);
}

/** A record for `mount --output=json`, with the keys of `status`. */
export function recordJson(record: MountRecord): Record<string, unknown> {
  const { image, mountpoint, format, transport, pid, workers, readOnly, log } = record;
  return { image, mountpoint, format, transport, pid, workers, 'read-only': readOnly, log };
}

/** @throws ImgfuseError io; then the file is what it was */
export function writeRecord(path: string, record: MountRecord): void {
  try {
    writeWhole(path, `${JSON.stringify(record, undefined, 2)}\n`, 0o600);
  } catch (cause) {
    throw new ImgfuseError('io', `the record ${path} of the mount cannot be written`, { path }, cause);
  }
}

/** Every readable record, dead ones included, newest process last. */
export function listRecords(): StoredRecord[] {
  const records: StoredRecord[] = [];
  for (const directory of readableDirectories()) {
    // root may look into the directories of others, nobody looks into one that others could have prepared for them
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
  const text = readTextOf(owner, recordPath, RECORD_MAX_BYTES);
  if (text === null) return null;
  let value: Partial<MountRecord>;
  try {
    value = JSON.parse(text) as Partial<MountRecord>;
  } catch {
    return null;
  }
  if (typeof value.image !== 'string' || typeof value.mountpoint !== 'string') return null;
  if (!Number.isSafeInteger(value.pid) || !Number.isSafeInteger(value.processStart)) return null;
  const record = value as MountRecord;
  return {
    ...record,
    recordPath,
    socketPath: recordPath.replace(/\.json$/, '.sock'),
    logPath: recordPath.replace(/\.json$/, '.log'),
    alive: processStartTime(record.pid) === record.processStart && processOwner(record.pid) === owner,
    owner,
  };
}

/** Removes what is left of a mount whose process is gone; other users' files are theirs to remove. */
export function forgetRecord(record: StoredRecord): void {
  if (record.owner === ownUid()) removeRuntimeFiles(record);
}

/** Removes the record and the socket of a mount; its log is for removeQuietLog, or stays. */
export function removeRuntimeFiles(files: { recordPath: string; socketPath: string }): void {
  removeFile(files.recordPath);
  removeFile(files.socketPath);
}
