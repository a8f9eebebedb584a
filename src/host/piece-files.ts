// PieceFiles: the files of a directory as one host file, read-only. Each holds a piece of one size, and its name is the number of the
// piece in hexadecimal digits; a piece without a file reads as zeros. A file is open only while it is read, so that thousands of them
// are neither opened nor counted. Invariant: they are found through the descriptor of the directory, and no symbolic link is followed.

import * as fs from 'node:fs';
import { hostPath } from '../bytes/names.ts';
import { type HostOffset, hostOffset, isSafeOffset } from '../bytes/offsets.ts';
import { ImgfuseError } from '../errors/index.ts';
import { type FileIdentity, identityOf } from './file-identity.ts';
import { type HostFile, readPadded } from './host-file.ts';
import { hostError, PosixHostFile } from './posix-file.ts';
import type { PieceLayout, SharedFile } from './shared-file.ts';

/** Files of a directory whose space is added up; of more only the length counts. */
const MOST_COUNTED = 4096;
/** Pieces in a row without a file, after which the directory is asked for the next one. */
const MANY_MISSING = 64;
const PIECE_NAME = /^(0|[1-9a-f][0-9a-f]{0,11})$/;

export class PieceFiles implements HostFile {
  readonly path: string;
  readonly readOnly = true;
  /** of the directory */
  readonly descriptor: number;
  readonly isDevice = false;
  private readonly layout: PieceLayout;
  private allocated: number | null = null;

  private constructor(path: string, descriptor: number, layout: PieceLayout) {
    this.path = path;
    this.descriptor = descriptor;
    this.layout = layout;
  }

  /** @throws ImgfuseError missing, permission */
  static open(path: string, layout: PieceLayout): PieceFiles {
    const { O_DIRECTORY, O_NOFOLLOW, O_RDONLY } = fs.constants;
    try {
      return new PieceFiles(path, fs.openSync(hostPath(path), O_RDONLY | O_DIRECTORY | O_NOFOLLOW), layout);
    } catch (error) {
      throw hostError(error, path, 'open');
    }
  }

  /** The same open directory in another thread. */
  static attach(path: string, descriptor: number, layout: PieceLayout): PieceFiles {
    return new PieceFiles(path, descriptor, layout);
  }

  size(): number {
    return this.layout.length;
  }

  /** As it is when it is asked for first; of many pieces an upper bound. */
  allocatedBytes(): number {
    this.allocated ??= this.countAllocated();
    return this.allocated;
  }

  modifiedMs(): number {
    return fs.fstatSync(this.descriptor).mtimeMs;
  }

  identity(): FileIdentity {
    return identityOf(fs.fstatSync(this.descriptor, { bigint: true }));
  }

  read(target: Uint8Array, targetOffset: number, length: number, offset: HostOffset): number {
    this.checkOffset(offset);
    const count = Math.max(0, Math.min(length, this.size() - offset));
    for (let done = 0; done < count; ) {
      const { index, inPiece } = this.placeOf(offset + done);
      const part = Math.min(count - done, this.layout.pieceBytes - inPiece);
      const at = targetOffset + done;
      const isThere = this.withPiece(index, (piece) => readPadded(piece, target, at, part, hostOffset(inPiece)));
      if (!isThere) target.fill(0, at, at + part);
      done += part;
    }
    return count;
  }

  seekData(offset: HostOffset, end = this.size()): number {
    this.checkOffset(offset);
    const { pieceBytes } = this.layout;
    let missing = 0;
    for (let at: number = offset; at < end; ) {
      const { index, inPiece, start } = this.placeOf(at);
      let found = pieceBytes;
      const isThere = this.withPiece(index, (piece) => {
        const data = piece.seekData(hostOffset(inPiece));
        if (data < piece.size()) found = data;
      });
      if (found < pieceBytes) return Math.min(start + found, this.size());
      missing = isThere ? 0 : missing + 1;
      at = missing === MANY_MISSING ? this.nextPiece(index) * pieceBytes : start + pieceBytes;
    }
    return this.size();
  }

  seekHole(offset: HostOffset, end = this.size()): number {
    this.checkOffset(offset);
    for (let at: number = offset; at < end; ) {
      const { index, inPiece, start } = this.placeOf(at);
      let found = inPiece;
      this.withPiece(index, (piece) => {
        found = Math.max(inPiece, piece.seekHole(hostOffset(inPiece)));
      });
      if (found < this.layout.pieceBytes) return Math.min(start + found, this.size());
      at = start + this.layout.pieceBytes;
    }
    return Math.min(end, this.size());
  }

  write(): void {
    throw this.readOnlyError('write');
  }

  sync(): void {}

  truncate(): void {
    throw this.readOnlyError('truncate');
  }

  punchHole(): void {
    throw this.readOnlyError('punch-hole');
  }

  punchesHoles(): boolean {
    return false;
  }

  zeroRange(): void {
    throw this.readOnlyError('zero-range');
  }

  allocateRange(): void {
    throw this.readOnlyError('allocate');
  }

  share(): SharedFile {
    const { descriptor, layout, path } = this;
    return { kind: 'pieces', path, descriptor, layout };
  }

  close(): void {
    fs.closeSync(this.descriptor);
  }

  private placeOf(offset: number): { readonly index: number; readonly inPiece: number; readonly start: number } {
    const inPiece = offset % this.layout.pieceBytes;
    const start = offset - inPiece;
    return { index: start / this.layout.pieceBytes, inPiece, start };
  }

  /** Opens the file of a piece for the time of `action`. @returns false if there is none */
  private withPiece(index: number, action: (piece: HostFile) => void): boolean {
    const name = index.toString(16);
    const path = `${this.path}/${name}`;
    const place = `/proc/self/fd/${this.descriptor}/${name}`;
    let stat: fs.Stats | undefined;
    try {
      // an error for each file that is missing would take longer than everything else
      stat = fs.lstatSync(place, { throwIfNoEntry: false });
    } catch (error) {
      throw hostError(error, path, 'stat');
    }
    if (stat === undefined) return false;
    if (!stat.isFile()) {
      const sentence = `${path} is no regular file, and nothing else is opened as a part of a disk; put a regular file in its place`;
      throw new ImgfuseError('permission', sentence, { path });
    }
    const piece = PosixHostFile.openNoLink(place, path);
    try {
      action(piece);
    } finally {
      piece.close();
    }
    return true;
  }

  private countAllocated(): number {
    let bytes = 0;
    let count = 0;
    for (const name of this.names()) {
      if (++count > MOST_COUNTED) return this.size();
      const stat = fs.lstatSync(`/proc/self/fd/${this.descriptor}/${name}`, { throwIfNoEntry: false });
      if (stat?.isFile() === true) bytes += stat.blocks * 512;
    }
    return bytes;
  }

  /** The lowest number above `index` of a piece with a file; Infinity if there is none. */
  private nextPiece(index: number): number {
    let next = Number.POSITIVE_INFINITY;
    for (const name of this.names()) {
      const number = Number.parseInt(name, 16);
      if (number > index && number < next) next = number;
    }
    return next;
  }

  /** Names in the directory that a piece may have, in no order. */
  private *names(): Generator<string, void> {
    const directory = fs.opendirSync(`/proc/self/fd/${this.descriptor}`, { bufferSize: 1024 });
    try {
      for (let entry = directory.readSync(); entry !== null; entry = directory.readSync()) {
        if (PIECE_NAME.test(entry.name)) yield entry.name;
      }
    } finally {
      directory.closeSync();
    }
  }

  private checkOffset(offset: number): void {
    if (isSafeOffset(offset)) return;
    throw new ImgfuseError('usage', `${this.path} has no offset ${offset}`, { path: this.path });
  }

  private readOnlyError(operation: string): ImgfuseError {
    const { path } = this;
    return new ImgfuseError('read-only', `${path} holds a disk in pieces, which is only read`, { path, operation });
  }
}
