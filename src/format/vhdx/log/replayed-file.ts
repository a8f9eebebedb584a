// The image file as it would be with its log replayed, for a read-only open: the file itself is not touched. Changes lie in the way
// of a read only where the log has some, which is in metadata.

import { after, type HostOffset, hex, hostOffset } from '../../../bytes/offsets.ts';
import { assert, ImgfuseError } from '../../../errors/index.ts';
import type { FileIdentity } from '../../../host/file-identity.ts';
import type { HostFile } from '../../../host/host-file.ts';
import type { SharedFile } from '../../../host/shared-file.ts';
import { isDataSector } from './entry.ts';
import { EDGE_BYTES, type Replay } from './replay.ts';
import { LOG_SECTOR_BYTES } from './ring.ts';

/** Bytes of a data sector before and behind those that it has itself. */
const LEADING_BYTES = 8;

export class ReplayedFile implements HostFile {
  readonly path: string;
  readonly readOnly = true;
  readonly descriptor = null;
  readonly isDevice: boolean;
  private readonly file: HostFile;
  private readonly replay: Replay;
  private readonly scratch = new Uint8Array(LOG_SECTOR_BYTES);

  constructor(file: HostFile, replay: Replay) {
    this.path = file.path;
    this.isDevice = file.isDevice;
    this.file = file;
    this.replay = replay;
  }

  size(): number {
    return Math.max(this.file.size(), this.replay.fileLength);
  }

  read(target: Uint8Array, targetOffset: number, length: number, offset: HostOffset): number {
    const inside = Math.max(0, Math.min(length, this.size() - offset));
    const got = this.file.read(target, targetOffset, inside, offset);
    target.fill(0, targetOffset + got, targetOffset + inside);
    const end = offset + inside;
    const { targets, zeros } = this.replay;
    const above = firstAbove(zeros, offset);
    // an odd one is the end of a range that begins at or before the offset
    for (let i = above - (above % 2); i < zeros.length && zeros[i]! < end; i += 2) {
      const start = Math.max(offset, zeros[i]!);
      target.fill(0, targetOffset + start - offset, targetOffset + Math.min(end, zeros[i + 1]!) - offset);
    }
    for (let i = firstAbove(targets, offset - LOG_SECTOR_BYTES); i < targets.length && targets[i]! < end; i++) {
      const start = Math.max(offset, targets[i]!);
      const stop = Math.min(end, targets[i]! + LOG_SECTOR_BYTES);
      const sector = this.sector(i).subarray(start - targets[i]!, stop - targets[i]!);
      target.set(sector, targetOffset + start - offset);
    }
    return inside;
  }

  /**
   * The changed sector with this index, all of it; void after the next call.
   * @throws ImgfuseError corrupt: a program that writes to the image has gone round the log since it was opened
   */
  sector(index: number): Uint8Array {
    const { edges, sequences, sources } = this.replay;
    const { scratch } = this;
    const source = hostOffset(sources[index]!);
    const got = this.file.read(scratch, 0, LOG_SECTOR_BYTES, source);
    const sequence = { high: sequences[index * 2]!, low: sequences[index * 2 + 1]! };
    if (got < LOG_SECTOR_BYTES || !isDataSector(scratch, sequence)) {
      const sentence = `its log has changed at offset ${hex(source)} since it was opened: another program writes to it`;
      throw new ImgfuseError('corrupt', `${this.path}: ${sentence}`, { path: this.path, offset: source });
    }
    const at = index * EDGE_BYTES;
    scratch.set(edges.subarray(at, at + LEADING_BYTES));
    scratch.set(edges.subarray(at + LEADING_BYTES, at + EDGE_BYTES), LOG_SECTOR_BYTES - EDGE_BYTES + LEADING_BYTES);
    return scratch;
  }

  /** A range that becomes zeros counts as what the file has there. */
  seekData(offset: HostOffset): number {
    const { targets } = this.replay;
    const size = this.size();
    const own = this.file.size();
    const found = offset < own ? this.file.seekData(offset) : own;
    const changed = targets[firstAbove(targets, offset - LOG_SECTOR_BYTES)] ?? size;
    return Math.min(found < own ? found : size, Math.max(offset, changed));
  }

  seekHole(offset: HostOffset): number {
    const { targets } = this.replay;
    const size = this.size();
    for (let at = offset; ; ) {
      const hole = at < this.file.size() ? this.file.seekHole(at) : at;
      const changed = targets[firstAbove(targets, hole - LOG_SECTOR_BYTES)];
      if (changed === undefined || changed > hole || hole >= size) return Math.min(hole, size);
      at = after(hostOffset(changed), LOG_SECTOR_BYTES);
    }
  }

  allocatedBytes(): number {
    return this.file.allocatedBytes() + this.replay.targets.length * LOG_SECTOR_BYTES;
  }

  modifiedMs(): number | null {
    return this.file.modifiedMs();
  }

  identity(): FileIdentity {
    return this.file.identity();
  }

  share(): SharedFile {
    return this.file.share();
  }

  punchesHoles(): boolean {
    return false;
  }

  write(): void {
    this.refuse();
  }

  sync(): void {
    this.refuse();
  }

  truncate(): void {
    this.refuse();
  }

  punchHole(): void {
    this.refuse();
  }

  zeroRange(): void {
    this.refuse();
  }

  allocateRange(): void {
    this.refuse();
  }

  /** Whoever opened the file closes it. */
  close(): void {}

  private refuse(): void {
    assert(false, `${this.path} is read with its log in memory, and is not changed`);
  }
}

/** Index of the first number above `value`; the numbers ascend. */
function firstAbove(numbers: Float64Array, value: number): number {
  let [low, high] = [0, numbers.length];
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (numbers[middle]! > value) high = middle;
    else low = middle + 1;
  }
  return low;
}
