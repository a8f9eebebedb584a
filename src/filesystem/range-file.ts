// A file that shows a range of bytes of the disk: the whole disk, which can change its size, or a partition, which cannot. Offsets
// of requests are those of the file. Invariant: nothing is read or changed outside the range, and each change is told to the watch
// of the partition table after it was made.

import { FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, FALLOC_FL_ZERO_RANGE } from '../bytes/linux.ts';
import { guestOffset } from '../bytes/offsets.ts';
import type { VirtualDisk } from '../disk/index.ts';
import { ERRNO, ImgfuseError } from '../errors/index.ts';
import type { KernelPages } from '../fuse/filesystem.ts';
import { failure } from './failure.ts';
import { HANDLE, type Handles, isTruncating } from './handles.ts';
import type { SharedNode } from './records.ts';
import { seekIn } from './seek.ts';
import type { TableWatch } from './table-watch.ts';
import type { TreeWords } from './tree-state.ts';
import type { Truncation } from './truncation.ts';

/** A range operation that covers gigabytes is passed to the disk in steps of this size. */
const RANGE_STEP = 1024 * 1024 * 1024;

export interface RangeFileParts {
  readonly disk: VirtualDisk;
  readonly record: number;
  readonly node: number;
  /** as the user sees it: disk.raw, partitions/1.raw */
  readonly name: string;
  /** the first byte of the disk that the file shows */
  readonly start: number;
  /** null: up to the end of the disk, wherever that is */
  readonly length: number | null;
  readonly attributes: SharedNode;
  readonly truncation: Truncation;
  readonly handles: Handles;
  readonly pages: KernelPages;
  readonly words: TreeWords;
  readonly table: TableWatch;
}

export class RangeFile {
  readonly record: number;
  readonly name: string;
  readonly attributes: SharedNode;
  readonly truncation: Truncation;
  private readonly disk: VirtualDisk;
  private readonly start: number;
  private readonly length: number | null;
  private readonly node: number;
  private readonly handles: Handles;
  private readonly pages: KernelPages;
  private readonly words: TreeWords;
  private readonly table: TableWatch;
  private readonly zeroGap = (at: number, length: number): void => {
    try {
      this.disk.discard(this.start + at, length);
    } finally {
      this.afterGap(at, at + length);
    }
  };

  constructor(parts: RangeFileParts) {
    this.disk = parts.disk;
    this.record = parts.record;
    this.name = parts.name;
    this.start = parts.start;
    this.length = parts.length;
    this.attributes = parts.attributes;
    this.truncation = parts.truncation;
    this.node = parts.node;
    this.handles = parts.handles;
    this.pages = parts.pages;
    this.words = parts.words;
    this.table = parts.table;
  }

  size(): number {
    return this.length === null ? this.disk.size() : Math.max(0, Math.min(this.length, this.disk.size() - this.start));
  }

  /** An upper bound of the bytes that may be data; 0 only if all of them read as zeros. */
  occupiedBytes(): number {
    return Math.min(this.size(), this.disk.occupiedBytes());
  }

  read(target: Uint8Array, targetOffset: number, length: number, offset: number): number {
    const count = this.length === null ? length : Math.max(0, Math.min(length, this.size() - offset));
    return this.disk.read(target, targetOffset, count, guestOffset(this.start + offset));
  }

  write(
    handle: number,
    source: Uint8Array,
    sourceOffset: number,
    length: number,
    offset: number,
    isDirect: boolean,
  ): number {
    if (length === 0) return 0;
    const room = this.length === null ? length : Math.min(length, this.size() - offset);
    if (room <= 0) throw this.tooLarge('a write', offset);
    if (this.truncation.isActive) {
      const end = Math.min(offset + room, this.size());
      if (offset < end) this.beforeChange(handle, offset, end);
    }
    try {
      return this.disk.write(source, sourceOffset, room, guestOffset(this.start + offset));
    } finally {
      // a write that fails may have changed some of them
      this.afterChange(offset, offset + room);
      // the kernel has dropped their pages before it sent the WRITE, but an asynchronous one (io_submit(2), io_uring) leaves those
      // that are filled again until it is served
      if (isDirect && this.handles.othersUsePages(this.record, handle))
        this.pages.dropBeforeReply(this.node, offset, offset + room);
    }
  }

  /** truncate(2), or ftruncate(2) through `handle`. */
  resize(size: number, handle: number): void {
    if (isTruncating(handle)) return this.endAt(size);
    if (size === this.size()) return;
    this.assertResizable(size);
    this.disk.resize(size);
    this.table.noteEverything();
    this.touch();
  }

  fallocate(handle: number, mode: number, offset: number, length: number): void {
    const end = offset + length;
    const action = mode & ~FALLOC_FL_KEEP_SIZE;
    const keepSize = (mode & FALLOC_FL_KEEP_SIZE) !== 0;
    // a hole never changes the size; the kernel has checked that, other callers may not have
    if (action === FALLOC_FL_PUNCH_HOLE && !keepSize) throw failure(ERRNO.EOPNOTSUPP, 'PUNCH_HOLE needs KEEP_SIZE');
    if (action !== 0 && action !== FALLOC_FL_PUNCH_HOLE && action !== FALLOC_FL_ZERO_RANGE) {
      throw failure(ERRNO.EOPNOTSUPP, `fallocate mode ${mode} is not served: only plain, PUNCH_HOLE and ZERO_RANGE`);
    }
    // writing zeros for a hole would take the space that a hole gives back; callers that want zeros use ZERO_RANGE
    if (action === FALLOC_FL_PUNCH_HOLE && !this.disk.readOnly && !this.disk.canDiscard()) {
      throw failure(ERRNO.EOPNOTSUPP, `${this.disk.path} can give no space back`);
    }
    if (!keepSize && end > this.size()) this.growTo(end);
    if (isTruncating(handle) && !keepSize) this.beforeChange(handle, action === 0 ? end : offset, end);
    const last = Math.min(end, this.size());
    const { disk } = this;
    if (action === 0) this.inSteps(offset, last, (at, count) => disk.preallocate(at, count));
    else if (action === FALLOC_FL_PUNCH_HOLE) this.inSteps(offset, last, (at, count) => disk.discard(at, count));
    else this.inSteps(offset, last, (at, count) => disk.writeZeroes(at, count));
    this.touch();
  }

  seek(offset: number, whence: number): number {
    return seekIn(this, offset, whence);
  }

  /** As SoughtFile has it. */
  find(offset: number, wantsData: boolean): number {
    return this.disk.seek(this.start + offset, wantsData, this.start + this.size()) - this.start;
  }

  flush(): void {
    this.disk.flush();
  }

  /**
   * ftruncate through a handle that was opened with O_TRUNC: cp and tar end a file with a hole in this way, so `size` is the end
   * of the file that was written over this one. The disk grows if it is too small, and is never cut.
   */
  private endAt(size: number): void {
    this.truncation.cut(size);
    this.growTo(size);
    this.beforeChange(HANDLE.truncate, size, size);
    this.touch();
  }

  private growTo(size: number): void {
    if (size <= this.size()) return;
    if (this.length !== null) throw this.tooLarge('an end', size);
    this.disk.growTo(size);
    this.table.noteEverything();
  }

  /** Bytes [start, end) are about to change: what a handle opened with O_TRUNC skips before them becomes zeros. */
  private beforeChange(handle: number, start: number, end: number): void {
    if (!isTruncating(handle)) return this.truncation.note(start, end);
    this.truncation.extend(start, end, this.zeroGap);
  }

  /** Zeros have taken the place of bytes that nobody has written, so the kernel may still hold pages of what was there before. */
  private afterGap(start: number, end: number): void {
    this.noteChange(start, end);
    if (this.handles.noteGap(this.record)) this.pages.dropBeforeReply(this.node, start, end);
  }

  private afterChange(start: number, end: number): void {
    this.noteChange(start, end);
    this.touch();
  }

  private noteChange(start: number, end: number): void {
    this.table.noteChange(this.start + start, this.start + end);
    if (this.handles.areReadersBeside) this.words.noteStalePages();
  }

  /** The content changed. */
  private touch(): void {
    const now = Date.now();
    this.attributes.mtimeMs = now;
    this.attributes.ctimeMs = now;
  }

  /** Calls `action` with pieces of bytes [start, end) of the file, as offsets of the disk. */
  private inSteps(start: number, end: number, action: (at: number, count: number) => void): void {
    for (let at = start; at < end; at += RANGE_STEP) {
      const count = Math.min(RANGE_STEP, end - at);
      try {
        action(this.start + at, count);
      } finally {
        this.afterChange(at, at + count);
      }
    }
  }

  private assertResizable(size: number): void {
    if (this.length === null) return;
    throw failure(
      ERRNO.EPERM,
      `${this.name} keeps its size of ${this.size()} bytes, and cannot be cut or extended to ${size}: the partition table says how long it is`,
    );
  }

  private tooLarge(what: string, offset: number): ImgfuseError {
    const sentence = `${what} at ${offset} lies beyond the end of ${this.name}, which has ${this.size()} bytes and keeps its size`;
    return new ImgfuseError('limit', sentence, { path: this.disk.path, offset: this.start + offset });
  }
}
