// MemoryHostFile: an image file in memory, for tests that need thousands of images a second. Pages exist where something
// was written, so a file may be long and cheap; a page that is missing is a hole. A clone shares its pages until one of the
// two files writes to them.

import type { HostOffset } from '../../src/bytes/offsets.ts';
import { ImgfuseError } from '../../src/errors/index.ts';
import type { FileIdentity } from '../../src/host/file-identity.ts';
import type { HostFile } from '../../src/host/host-file.ts';
import type { SharedFile } from '../../src/host/shared-file.ts';

const PAGE = 4096;
let nextInode = 1;
let nextOwner = 1;

/** A page of one file or of several; only its owner changes it. */
class Page {
  readonly bytes: Uint8Array;
  readonly owner: number;
  /** the fingerprint, two words, if it is known */
  first = 0;
  second = 0;
  isDigested = false;

  constructor(bytes: Uint8Array, owner: number) {
    this.bytes = bytes;
    this.owner = owner;
  }
}

export class MemoryHostFile implements HostFile {
  readonly path: string;
  readonly readOnly: boolean;
  readonly descriptor = null;
  readonly isDevice = false;
  private readonly inode = nextInode++;
  private pages = new Map<number, Page>();
  /** another file has the same map, which is copied before it changes */
  private isMapShared = false;
  /** of the pages that no other file has */
  private owner = nextOwner++;
  private length = 0;

  constructor(content: Uint8Array = new Uint8Array(0), path = '/memory', readOnly = false) {
    this.path = path;
    this.readOnly = readOnly;
    this.put(content, 0, content.length, 0);
  }

  /** A file with the same content. */
  clone(readOnly = this.readOnly): MemoryHostFile {
    const copy = new MemoryHostFile(new Uint8Array(0), this.path, readOnly);
    copy.pages = this.pages;
    copy.isMapShared = true;
    this.isMapShared = true;
    this.owner = nextOwner++;
    copy.length = this.length;
    return copy;
  }

  /** A copy of the content. */
  bytes(): Uint8Array {
    const content = new Uint8Array(this.length);
    this.read(content, 0, this.length, 0 as HostOffset);
    return content;
  }

  /** Equal for files with the same length, pages and holes, and for no others, as far as 64 bits can tell. */
  fingerprint(): string {
    let [low, high] = [0, 0];
    for (const [index, page] of this.pages) {
      if (!page.isDigested) digest(page);
      // a sum: the pages are in no order
      low = (low + mix(page.first ^ Math.imul(index, 0x9e3779b1))) >>> 0;
      high = (high + mix(page.second ^ Math.imul(index + 1, 0x85ebca6b))) >>> 0;
    }
    return `${this.length}:${low}:${high}`;
  }

  size(): number {
    return this.length;
  }

  allocatedBytes(): number {
    return this.pages.size * PAGE;
  }

  modifiedMs(): null {
    return null;
  }

  identity(): FileIdentity {
    return { device: 'memory', inode: String(this.inode) };
  }

  read(target: Uint8Array, targetOffset: number, length: number, offset: HostOffset): number {
    this.checkOffset('read', offset, length);
    const count = Math.max(0, Math.min(length, this.length - offset));
    for (let done = 0; done < count; ) {
      const inPage = (offset + done) % PAGE;
      const part = Math.min(PAGE - inPage, count - done);
      const page = this.pages.get((offset + done - inPage) / PAGE)?.bytes;
      const at = targetOffset + done;
      if (page === undefined) target.fill(0, at, at + part);
      else target.set(part === PAGE ? page : page.subarray(inPage, inPage + part), at);
      done += part;
    }
    return count;
  }

  write(source: Uint8Array, sourceOffset: number, length: number, offset: HostOffset): void {
    this.checkOffset('write', offset, length);
    this.checkWritable('write');
    this.put(source, sourceOffset, length, offset);
  }

  sync(): void {}

  truncate(length: number): void {
    this.checkOffset('truncate', length, 0);
    this.checkWritable('truncate');
    if (length < this.length) this.clear(length, this.length);
    this.length = length;
  }

  punchHole(offset: HostOffset, length: number): void {
    this.checkOffset('punch-hole', offset, length);
    this.checkWritable('punch-hole');
    this.clear(offset, Math.min(offset + length, this.length));
  }

  punchesHoles(): boolean {
    return !this.readOnly;
  }

  zeroRange(offset: HostOffset, length: number): void {
    this.punchHole(offset, length);
  }

  allocateRange(offset: HostOffset, length: number): void {
    this.checkOffset('allocate', offset, length);
    this.length = Math.max(this.length, offset + length);
  }

  seekData(offset: HostOffset): number {
    return this.seek(offset, true);
  }

  seekHole(offset: HostOffset): number {
    return this.seek(offset, false);
  }

  share(): SharedFile {
    return { kind: 'private', path: this.path };
  }

  close(): void {}

  private put(source: Uint8Array, sourceOffset: number, length: number, offset: number): void {
    for (let done = 0; done < length; ) {
      const inPage = (offset + done) % PAGE;
      const part = Math.min(PAGE - inPage, length - done);
      const index = (offset + done - inPage) / PAGE;
      this.ownPage(index).set(source.subarray(sourceOffset + done, sourceOffset + done + part), inPage);
      done += part;
    }
    if (length > 0) this.length = Math.max(this.length, offset + length);
  }

  /** The bytes of a page, to be changed. */
  private ownPage(index: number): Uint8Array {
    const present = this.pages.get(index);
    if (present?.owner === this.owner) {
      present.isDigested = false;
      return present.bytes;
    }
    const page = new Page(present?.bytes.slice() ?? new Uint8Array(PAGE), this.owner);
    this.ownMap().set(index, page);
    return page.bytes;
  }

  private ownMap(): Map<number, Page> {
    if (this.isMapShared) this.pages = new Map(this.pages);
    this.isMapShared = false;
    return this.pages;
  }

  /** [start, end) becomes zeros; whole pages become holes. */
  private clear(start: number, end: number): void {
    for (const index of this.pages.keys()) {
      const from = Math.max(start - index * PAGE, 0);
      const to = Math.min(end - index * PAGE, PAGE);
      if (from >= to) continue;
      if (to - from === PAGE) this.ownMap().delete(index);
      else this.ownPage(index).fill(0, from, to);
    }
  }

  private seek(offset: number, wantData: boolean): number {
    // a long hole is left by a look at the pages that exist
    if (wantData && (this.length - offset) / PAGE > this.pages.size) {
      let data = this.length;
      for (const index of this.pages.keys()) {
        if ((index + 1) * PAGE > offset) data = Math.min(data, Math.max(offset, index * PAGE));
      }
      return data;
    }
    for (let at = offset; at < this.length; at = at - (at % PAGE) + PAGE) {
      if (this.pages.has(Math.floor(at / PAGE)) === wantData) return at;
    }
    return this.length;
  }

  private checkOffset(operation: string, offset: number, length: number): void {
    if (Number.isSafeInteger(offset) && offset >= 0 && Number.isSafeInteger(length) && length >= 0) return;
    throw new ImgfuseError(
      'usage',
      `${operation} of ${this.path} at offset ${offset}, length ${length}: not a valid range`,
    );
  }

  private checkWritable(operation: string): void {
    if (this.readOnly) throw new ImgfuseError('read-only', `${this.path} is open read-only`, { operation });
  }
}

/** The finalizer of Murmur3: every bit of the word changes every bit of the result. */
function mix(word: number): number {
  let mixed = Math.imul(word ^ (word >>> 16), 0x85ebca6b);
  mixed = Math.imul(mixed ^ (mixed >>> 13), 0xc2b2ae35);
  return mixed ^ (mixed >>> 16);
}

/** Two words that each depend on all words of a page and on their order; even and odd words apart, which takes half of the time. */
function digest(page: Page): void {
  const { buffer, byteOffset } = page.bytes;
  const words = new Int32Array(buffer, byteOffset, PAGE / 4);
  let [first, second, third, fourth] = [0x243f6a88, 0x13198a2e, 0x03707344, 0x299f31d0];
  for (let i = 0; i < PAGE / 4; i += 2) {
    const [even, odd] = [words[i]!, words[i + 1]!];
    first = Math.imul(first ^ even, 0x9e3779b1);
    first ^= first >>> 15;
    second = Math.imul(second + even, 0x85ebca6b);
    second ^= second >>> 13;
    third = Math.imul(third ^ odd, 0x9e3779b1);
    third ^= third >>> 15;
    fourth = Math.imul(fourth + odd, 0x85ebca6b);
    fourth ^= fourth >>> 13;
  }
  page.first = mix(first + mix(third));
  page.second = mix(second + mix(fourth));
  page.isDigested = true;
}
