// Marks of a clean close: what was known of an image when imgfuse closed it, kept outside of it, so that the next read-write open
// need not walk all of its tables to learn that again. A mark counts only for the very version of the file that it names
// (file-version.ts); a copy, a restored backup or a file that any program has changed is walked.
//
// Invariants: a mark lies in a directory that only its owner can enter, and lasts no longer than the running kernel, because
// after a crash a file may have new bytes and old times. It is written when everything of the image is durable, and taken
// away before the image can change.

import { createHash } from 'node:crypto';
import { join } from 'node:path';
import { hostOffset } from '../bytes/offsets.ts';
import type { ClosedFacts, WritableImage } from '../format/image-format.ts';
import { type FileVersion, fileVersion, finalVersion, isSameVersion } from '../host/file-version.ts';
import type { HostFile } from '../host/host-file.ts';
import { makePrivateDirectory, namesIn, readText, readTextOf, removeFile, writeWhole } from '../host/small-files.ts';

/** Raise it when the facts of a format change their meaning. */
const VERSION = 1;
const DIGEST_BYTES = 4096;
/** The facts of a fragmented image of the largest size. */
const MARK_MAX_BYTES = 4 * 1024 * 1024;
/** More images than that are not closed between two starts of a machine; beyond, all marks are forgotten. */
const MAX_MARKS = 1000;

interface Mark {
  readonly version: number;
  /** of the running kernel */
  readonly boot: string;
  readonly format: string;
  readonly file: FileVersion;
  /** SHA-256 of the first bytes of the file */
  readonly header: string;
  readonly facts: ClosedFacts;
}

export class ClosedMarks {
  private readonly directory: string;

  /** @param directory made when the first mark is written; only this user may enter the one above */
  constructor(directory: string) {
    this.directory = directory;
  }

  /** What is known of an image that nothing has changed since it was closed; `undefined` if there is no mark that counts. */
  find(file: HostFile, format: string): ClosedFacts | undefined {
    const version = fileVersion(file);
    if (version === null) return undefined;
    const mark = readMark(this.pathOf(version));
    if (mark === null || mark.format !== format || mark.boot !== bootId()) return undefined;
    if (!isSameVersion(mark.file, version) || mark.header !== headerDigest(file)) return undefined;
    return mark.facts;
  }

  /** Takes the mark away, because the image may change from now on. */
  forget(file: HostFile): void {
    const version = fileVersion(file);
    if (version !== null) removeFile(this.pathOf(version));
  }

  /** Marks an image that has just been closed clean, with its file still open. An image that cannot be marked is not. */
  keep({ file, format }: WritableImage, facts: ClosedFacts): void {
    const boot = bootId();
    if (boot === null) return;
    const version = finalVersion(file);
    if (version === null) return;
    const mark: Mark = { version: VERSION, boot, format, file: version, header: headerDigest(file), facts };
    try {
      makePrivateDirectory(this.directory);
      const names = namesIn(this.directory);
      if (names.length >= MAX_MARKS) for (const name of names) removeFile(join(this.directory, name));
      writeWhole(this.pathOf(version), JSON.stringify(mark), 0o600);
    } catch {
      // the next open walks
    }
  }

  private pathOf({ device, inode }: FileVersion): string {
    return join(this.directory, `${device}-${inode}`);
  }
}

function readMark(path: string): Mark | null {
  const text = readTextOf(process.getuid?.() ?? 0, path, MARK_MAX_BYTES);
  if (text === null) return null;
  try {
    const mark = JSON.parse(text) as Partial<Mark> | null;
    const isMark = mark?.version === VERSION && isObject(mark.file) && isObject(mark.facts);
    return isMark ? (mark as Mark) : null;
  } catch {
    return null;
  }
}

function isObject(value: unknown): boolean {
  return typeof value === 'object' && value !== null;
}

function headerDigest(file: HostFile): string {
  const bytes = new Uint8Array(DIGEST_BYTES);
  const length = file.read(bytes, 0, bytes.length, hostOffset(0));
  return createHash('sha256').update(bytes.subarray(0, length)).digest('hex');
}

/** null if the kernel does not tell. */
function bootId(): string | null {
  return readText('/proc/sys/kernel/random/boot_id')?.trim() ?? null;
}
