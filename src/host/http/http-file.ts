// HttpHostFile: a remote file as a read-only host file. Reads come from the block cache and wait for the network thread. A
// range that cannot be fetched is an io error of that read alone.

import { type HostOffset, isSafeOffset } from '../../bytes/offsets.ts';
import { closeAll } from '../../errors/close.ts';
import { ImgfuseError } from '../../errors/index.ts';
import type { FileIdentity } from '../file-identity.ts';
import type { HostFile, RemoteFile, Traffic } from '../host-file.ts';
import type { BlockCacheState, SharedFile } from '../shared-file.ts';
import { BlockCache } from './block-cache.ts';
import { BlockReader } from './block-reader.ts';
import { HTTP_LIMITS, type HttpLimits } from './limits.ts';
import { openUrl } from './network.ts';

/** Stands where other files have the number of their device. */
const NO_DEVICE = 'http';
/** URLs in the order in which they were first opened; the index identifies a remote file. */
const known: string[] = [];

export class HttpHostFile implements HostFile, RemoteFile {
  readonly path: string;
  readonly readOnly = true;
  readonly descriptor = null;
  readonly isDevice = false;
  readonly remote = this;
  private readonly cache: BlockCache;
  private readonly reader: BlockReader;
  private readonly onClose: (() => void) | null;

  private constructor(path: string, state: BlockCacheState, onClose: (() => void) | null) {
    this.path = path;
    this.cache = new BlockCache(state, path);
    this.reader = new BlockReader(this.cache, path);
    this.onClose = onClose;
  }

  get url(): string {
    return this.path;
  }

  /**
   * Opens an http or https URL, which the caller's policy allows; a redirect may lead to its own origin, and to or below
   * the URLs in `allowed`. Throws ImgfuseError with the reason as a sentence.
   */
  static open(url: string, allowed: readonly string[] = [], limits: HttpLimits = HTTP_LIMITS): HttpHostFile {
    const { state, close } = openUrl(url, allowed, limits);
    return new HttpHostFile(url, state, close);
  }

  /** The same open file in another thread. */
  static attach(path: string, state: BlockCacheState): HttpHostFile {
    return new HttpHostFile(path, state, null);
  }

  requestBegins(): void {
    this.reader.requestBegins();
  }

  size(): number {
    return this.cache.state.length;
  }

  allocatedBytes(): number {
    return this.size();
  }

  modifiedMs(): null {
    return null;
  }

  identity(): FileIdentity {
    if (!known.includes(this.path)) known.push(this.path);
    return { device: NO_DEVICE, inode: String(known.indexOf(this.path)) };
  }

  read(target: Uint8Array, targetOffset: number, length: number, offset: HostOffset): number {
    if (!(isSafeOffset(offset) && isSafeOffset(length) && Number.isSafeInteger(offset + length))) {
      throw new ImgfuseError('usage', `read of ${this.path} at offset ${offset}, length ${length}: not a valid range`, {
        path: this.path,
      });
    }
    const count = Math.max(0, Math.min(length, this.size() - offset));
    if (count > 0) this.reader.read(target, targetOffset, count, offset);
    return count;
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

  /** HTTP knows no holes: all of it is data. */
  seekData(offset: HostOffset): number {
    return Math.min(offset, this.size());
  }

  seekHole(): number {
    return this.size();
  }

  share(): SharedFile {
    return { kind: 'http', path: this.path, state: this.cache.state };
  }

  /** By the object that opened the file, for all threads. */
  close(): void {
    if (this.onClose === null) return;
    closeAll([this.cache, { close: this.onClose }]);
  }

  giveUp(): void {
    this.cache.close();
  }

  abandon(thread: number): void {
    this.cache.lock.abandon(thread);
  }

  traffic(): Traffic {
    return this.cache.traffic();
  }

  private readOnlyError(operation: string): ImgfuseError {
    return new ImgfuseError('read-only', `${this.path} is read over HTTP and cannot be changed`, {
      path: this.path,
      operation,
    });
  }
}
