// The records of attachments: which image is attached where, and which directories were made for it. They lie in the runtime
// directory beside those of the mounts, one NAME.json for each, with a directory NAME for the mount of the image (disk) and, if
// the user named none, for its files (files). Invariant: a record is written before anything that it names is made, and removed
// after all of that is gone; the tables of mounts and loop devices are the truth about what is there.

import { randomBytes } from 'node:crypto';
import { basename, dirname, join } from 'node:path';
import { processStartTime } from '../host/processes.ts';
import {
  makePrivateDirectory,
  namesIn,
  readTextOf,
  removeDirectory,
  removeFile,
  writeWhole,
} from '../host/small-files.ts';
import { ownDirectories, ownUid, prepareRuntimeFiles } from '../mounts/runtime-directory.ts';

const FOLDER = 'attached';
const RECORD_MAX_BYTES = 65536;
const NAME_MAX = 40;

/** attaching: the command is at work; attached: it has done what was asked; a program may run there. */
export type AttachmentState = 'attaching' | 'attached';

/** A file system of the guest, and where it is mounted. */
export interface AttachedPartition {
  /** null: the disk has no partitions */
  readonly number: number | null;
  readonly type: string;
  readonly directory: string;
}

export interface AttachmentRecord {
  readonly image: string;
  readonly directory: string;
  /** directories that were made for the attachment, inner ones last; they are removed with it */
  readonly made: readonly string[];
  readonly state: AttachmentState;
  /** it is there for a program that the command runs, and ends with it */
  readonly forProgram: boolean;
  /** the command that attaches */
  readonly pid: number;
  /** clock ticks since boot, from /proc/PID/stat */
  readonly processStart: number;
  /** nothing is written to the image, so that it may be attached more than once */
  readonly readOnly: boolean;
  /** changes go to an overlay, so that the guest can be written all the same */
  readonly writesAside?: boolean;
  readonly partitions: readonly AttachedPartition[];
}

/** A record with its places. */
export interface Attachment extends AttachmentRecord {
  readonly recordPath: string;
  /** the mountpoint of the image */
  readonly disk: string;
  /** the disk as a raw file */
  readonly raw: string;
  /** the command that attaches still runs: it is at work, or runs its program */
  readonly alive: boolean;
}

/** Names a new attachment of an image; makes nothing but the directory for the records. @throws ImgfuseError permission */
export function newAttachmentPath(image: string): string {
  const folder = join(dirname(prepareRuntimeFiles().recordPath), FOLDER);
  makePrivateDirectory(folder);
  const name = basename(image)
    .replaceAll(/[^\w.+-]/g, '_')
    .slice(0, NAME_MAX);
  return join(folder, `${name}-${process.pid}-${randomBytes(2).toString('hex')}.json`);
}

/** The directory for the guest's files if the user named none. */
export function ownFilesDirectory(recordPath: string): string {
  return join(folderOf(recordPath), 'files');
}

/** @throws what the host says */
export function writeRecord(recordPath: string, record: AttachmentRecord): Attachment {
  writeWhole(recordPath, JSON.stringify(record), 0o600);
  return withPlaces(recordPath, record);
}

/** Makes the directories of an attachment. @throws what the host says */
export function makePlaces({ disk, made }: Attachment): void {
  makePrivateDirectory(disk);
  for (const directory of made) makePrivateDirectory(directory);
}

/** The attachments of this user. */
export function listAttachments(): Attachment[] {
  return ownDirectories().flatMap((directory) => {
    const folder = join(directory, FOLDER);
    return namesIn(folder)
      .filter((name) => name.endsWith('.json'))
      .map((name) => readRecord(join(folder, name)))
      .filter((attachment) => attachment !== null);
  });
}

/** Removes the record and every directory that was made; a directory that is not empty stays. */
export function forgetAttachment({ recordPath, disk, made }: Attachment): void {
  for (const directory of [...made].reverse()) removeDirectory(directory);
  removeDirectory(disk);
  removeDirectory(folderOf(recordPath));
  removeFile(recordPath);
  removeUnfinished(dirname(recordPath));
  removeDirectory(dirname(recordPath));
}

/** Removes records that a killed command had not written to the end: their names are those that writeWhole() gives them. */
function removeUnfinished(folder: string): void {
  for (const name of namesIn(folder)) {
    const pid = /-(\d+)-[0-9a-f]{4}\.json\.[0-9a-f]{16}$/.exec(name)?.[1];
    if (pid !== undefined && processStartTime(Number(pid)) === null) removeFile(join(folder, name));
  }
}

function folderOf(recordPath: string): string {
  return recordPath.replace(/\.json$/, '');
}

function withPlaces(recordPath: string, record: AttachmentRecord): Attachment {
  const disk = join(folderOf(recordPath), 'disk');
  const alive = processStartTime(record.pid) === record.processStart;
  return { ...record, recordPath, disk, raw: join(disk, 'disk.raw'), alive };
}

function readRecord(recordPath: string): Attachment | null {
  const text = readTextOf(ownUid(), recordPath, RECORD_MAX_BYTES);
  if (text === null) return null;
  try {
    const record = JSON.parse(text) as AttachmentRecord;
    const isWhole = typeof record.image === 'string' && Array.isArray(record.made) && Array.isArray(record.partitions);
    return isWhole ? withPlaces(recordPath, record) : null;
  } catch {
    return null;
  }
}
