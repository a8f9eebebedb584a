// HostFiles around another HostFile: one that counts calls, one that records every change in order (the input
// of a crash model), one that fails on demand. Each forwards everything else unchanged.

import { type HostOffset, hostOffset } from '../../src/bytes/offsets.ts';
import { ERRNO, ImgfuseError } from '../../src/errors/index.ts';
import type { FileIdentity } from '../../src/host/file-identity.ts';
import type { HostFile } from '../../src/host/host-file.ts';
import type { SharedFile } from '../../src/host/shared-file.ts';

export type HostOperation = 'read' | 'write' | 'sync' | 'truncate' | 'punch-hole' | 'zero-range' | 'allocate';

/** Forwards to `inner`; subclasses look at `before` and `after` of each operation. */
abstract class WrappingFile implements HostFile {
  protected readonly inner: HostFile;

  constructor(inner: HostFile) {
    this.inner = inner;
  }

  protected abstract before(operation: HostOperation, offset: number, length: number, data?: Uint8Array): void;

  get path(): string {
    return this.inner.path;
  }
  get descriptor(): number | null {
    return this.inner.descriptor;
  }
  get isDevice(): boolean {
    return this.inner.isDevice;
  }
  get readOnly(): boolean {
    return this.inner.readOnly;
  }
  size(): number {
    return this.inner.size();
  }
  allocatedBytes(): number {
    return this.inner.allocatedBytes();
  }
  modifiedMs(): number | null {
    return this.inner.modifiedMs();
  }
  identity(): FileIdentity {
    return this.inner.identity();
  }
  read(target: Uint8Array, targetOffset: number, length: number, offset: HostOffset): number {
    this.before('read', offset, length);
    return this.inner.read(target, targetOffset, length, offset);
  }
  write(source: Uint8Array, sourceOffset: number, length: number, offset: HostOffset): void {
    this.before('write', offset, length, source.subarray(sourceOffset, sourceOffset + length));
    this.inner.write(source, sourceOffset, length, offset);
  }
  sync(): void {
    this.before('sync', 0, 0);
    this.inner.sync();
  }
  truncate(length: number): void {
    this.before('truncate', length, 0);
    this.inner.truncate(length);
  }
  punchHole(offset: HostOffset, length: number): void {
    this.before('punch-hole', offset, length);
    this.inner.punchHole(offset, length);
  }
  punchesHoles(): boolean {
    return this.inner.punchesHoles();
  }
  zeroRange(offset: HostOffset, length: number): void {
    this.before('zero-range', offset, length);
    this.inner.zeroRange(offset, length);
  }
  allocateRange(offset: HostOffset, length: number): void {
    this.before('allocate', offset, length);
    this.inner.allocateRange(offset, length);
  }
  seekData(offset: HostOffset): number {
    return this.inner.seekData(offset);
  }
  seekHole(offset: HostOffset): number {
    return this.inner.seekHole(offset);
  }
  share(): SharedFile {
    return this.inner.share();
  }
  close(): void {
    this.inner.close();
  }
}

/** Counts calls and bytes, for tests whose contract bounds the I/O. */
export class CountingHostFile extends WrappingFile {
  readonly calls: Record<HostOperation, number> = zeroCounts();
  readonly bytes: Record<HostOperation, number> = zeroCounts();

  protected override before(operation: HostOperation, _offset: number, length: number): void {
    this.calls[operation]++;
    this.bytes[operation] += length;
  }

  reset(): void {
    Object.assign(this.calls, zeroCounts());
    Object.assign(this.bytes, zeroCounts());
  }
}

/** One change of the file: `offset` is the new length for truncate; `data` is a copy of what was written. */
export interface RecordedOperation {
  readonly operation: Exclude<HostOperation, 'read'>;
  readonly offset: number;
  readonly length: number;
  readonly data?: Uint8Array;
  /** which of the files that share a log */
  readonly file: number;
}

/** Records every change in the order in which it was made. */
export class RecordingHostFile extends WrappingFile {
  readonly log: RecordedOperation[];
  private readonly file: number;
  private readonly isReadOnly: boolean;

  /** @param log shared by files whose order matters @param file this one's number among them @param readOnly what it says of itself */
  constructor(inner: HostFile, log: RecordedOperation[] = [], file = 0, readOnly = inner.readOnly) {
    super(inner);
    this.log = log;
    this.file = file;
    this.isReadOnly = readOnly;
  }

  override get readOnly(): boolean {
    return this.isReadOnly;
  }

  protected override before(operation: HostOperation, offset: number, length: number, data?: Uint8Array): void {
    if (operation === 'read') return;
    const { file } = this;
    this.log.push({ operation, offset, length, file, ...(data === undefined ? {} : { data: data.slice() }) });
  }
}

/** How an operation fails: with this errno, and a write after so many of its bytes. */
export interface Fault {
  readonly errno: number;
  readonly transferred: number;
}

/** What a faulty file does to one operation: fail, with a bare errno before anything is transferred, or null to let it pass. */
export type FaultPlan = (
  operation: HostOperation,
  count: number,
  offset: number,
  length: number,
) => Fault | number | null;

/** Fails operations as a plan says; `count` numbers all operations from 0. */
export class FaultyHostFile extends WrappingFile {
  private readonly plan: FaultPlan;
  private count = 0;

  constructor(inner: HostFile, plan: FaultPlan) {
    super(inner);
    this.plan = plan;
  }

  /** operations seen so far */
  get operations(): number {
    return this.count;
  }

  protected override before(operation: HostOperation, offset: number, length: number, data?: Uint8Array): void {
    const fault = this.plan(operation, this.count++, offset, length);
    if (fault === null) return;
    const { errno, transferred } = typeof fault === 'number' ? { errno: fault, transferred: 0 } : fault;
    if (data !== undefined && transferred > 0) this.inner.write(data, 0, transferred, hostOffset(offset));
    const kind = errno === ERRNO.ENOSPC ? 'no-space' : errno === ERRNO.EFBIG ? 'limit' : 'io';
    throw new ImgfuseError(kind, `${operation} of ${this.path} fails by plan (errno ${errno})`, {
      path: this.path,
      operation,
      errno,
      transferred,
    });
  }
}

function zeroCounts(): Record<HostOperation, number> {
  return { read: 0, write: 0, sync: 0, truncate: 0, 'punch-hole': 0, 'zero-range': 0, allocate: 0 };
}

/** The same bytes, as a file that was opened read-only. */
export function readOnlyView(file: HostFile): HostFile {
  return new Proxy(file, {
    get: (target, key) => {
      if (key === 'readOnly') return true;
      const value: unknown = Reflect.get(target, key, target);
      return typeof value === 'function' ? value.bind(target) : value;
    },
  });
}
