// MemoryHostFile: an image file in memory, for tests that need thousands of images a second. Holes are not kept apart from
// zeros: seekData and seekHole answer by content, in blocks of 512 bytes.

import type { HostOffset } from '../bytes/offsets.ts';
import { ImgfuseError } from '../errors/index.ts';
import type { FileIdentity, HostFile } from './host-file.ts';

const BLOCK = 512;
let nextInode = 1;

export class MemoryHostFile implements HostFile {
  readonly path: string;
  readonly readOnly: boolean;
  readonly descriptor = null;
  private readonly inode = nextInode++;
  private content: Uint8Array;
  private length: number;

  constructor(content: Uint8Array = new Uint8Array(0), path = '/memory', readOnly = false) {
    this.content = content.slice();
    this.length = content.length;
    this.path = path;
    this.readOnly = readOnly;
  }

  /** A copy of the content. */
  bytes(): Uint8Array {
    return this.content.slice(0, this.length);
  }

  size(): number {
    return this.length;
  }

  allocatedBytes(): number {
    let count = 0;
    for (let at = 0; at < this.length; at += BLOCK) if (!this.isZeroBlock(at)) count += BLOCK;
    return count;
  }

  identity(): FileIdentity {
    return { dev: 0, ino: this.inode };
  }

  read(target: Uint8Array, targetOffset: number, length: number, offset: HostOffset): number {
    this.checkOffset('read', offset, length);
    const count = Math.max(0, Math.min(length, this.length - offset));
    target.set(this.content.subarray(offset, offset + count), targetOffset);
    return count;
  }

  write(source: Uint8Array, sourceOffset: number, length: number, offset: HostOffset): void {
    this.checkOffset('write', offset, length);
    this.checkWritable('write');
    if (offset + length > this.length) this.setLength(offset + length);
    this.content.set(source.subarray(sourceOffset, sourceOffset + length), offset);
  }

  sync(): void {}

  truncate(length: number): void {
    this.checkOffset('truncate', length, 0);
    this.checkWritable('truncate');
    this.setLength(length);
  }

  punchHole(offset: HostOffset, length: number): void {
    this.checkOffset('punch-hole', offset, length);
    this.checkWritable('punch-hole');
    const end = Math.min(offset + length, this.length);
    if (end > offset) this.content.fill(0, offset, end);
  }

  zeroRange(offset: HostOffset, length: number): void {
    this.punchHole(offset, length);
  }

  allocateRange(offset: HostOffset, length: number): void {
    this.checkOffset('allocate', offset, length);
    if (offset + length > this.length) this.truncate(offset + length);
  }

  seekData(offset: HostOffset): number {
    return this.seek(offset, false);
  }

  seekHole(offset: HostOffset): number {
    return this.seek(offset, true);
  }

  close(): void {}

  private seek(offset: number, wantZero: boolean): number {
    for (let at = offset; at < this.length; at = at - (at % BLOCK) + BLOCK) {
      if (this.isZeroBlock(at - (at % BLOCK)) === wantZero) return at;
    }
    return this.length;
  }

  private isZeroBlock(start: number): boolean {
    return this.content.subarray(start, Math.min(start + BLOCK, this.length)).every((byte) => byte === 0);
  }

  private setLength(length: number): void {
    if (length > this.content.length) {
      const larger = new Uint8Array(Math.max(length, this.content.length * 2, 65536));
      larger.set(this.content.subarray(0, this.length));
      this.content = larger;
    } else if (length < this.length) {
      this.content.fill(0, length, this.length);
    }
    this.length = length;
  }

  private checkOffset(operation: string, offset: number, length: number): void {
    if (Number.isSafeInteger(offset) && offset >= 0 && Number.isSafeInteger(length) && length >= 0) return;
    throw new ImgfuseError('usage', `${operation} of ${this.path} at offset ${offset}, length ${length}: not a valid range`);
  }

  private checkWritable(operation: string): void {
    if (this.readOnly) throw new ImgfuseError('read-only', `${this.path} is open read-only`, { operation });
  }
}
