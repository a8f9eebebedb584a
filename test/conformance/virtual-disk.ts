// The contract of Image and VirtualDisk, as one suite that every format passes. A variant says how an image is made; all of
// it runs in memory, so that faults can be put at every single host operation.

import { describe, expect, test } from 'vitest';
import { guestOffset, hostOffset } from '../../src/bytes/offsets.ts';
import { steadyMs } from '../../src/concurrency/clock.ts';
import { CopyOnRead, createCopyOnReadState } from '../../src/disk/copy-on-read.ts';
import { VirtualDisk } from '../../src/disk/virtual-disk.ts';
import { ERRNO, errnoOf } from '../../src/errors/index.ts';
import type { ClosedFacts, WritableFormat, WritableImage } from '../../src/format/image-format.ts';
import type { HostFile } from '../../src/host/host-file.ts';
import { factsOf } from '../support/closed-facts.ts';
import type { MemoryHostFile } from '../support/memory-file.ts';
import { besideIt, checkImage, openImage } from '../support/memory-images.ts';
import {
  CountingHostFile,
  type FaultPlan,
  FaultyHostFile,
  type HostOperation,
  RecordingHostFile,
  readOnlyView,
} from '../support/wrapping-files.ts';
import { describeReading, type ReadSubject } from './readable-disk.ts';

export interface DiskVariant {
  readonly name: string;
  readonly format: WritableFormat;
  /** a new image of `size` bytes whose content is `initial` */
  readonly create: (size: number) => {
    readonly file: MemoryHostFile;
    readonly dataFile?: MemoryHostFile;
    readonly backing: WritableImage | null;
    readonly initial: Uint8Array;
  };
  readonly password?: string;
  /** every link waits for a flush, so a close that fails loses what was not flushed, and may leave leaks */
  readonly holdsLinksBack?: boolean;
  /** an image that was closed clean is opened again without a walk */
  readonly opensWithFacts?: boolean;
  /** reads copy up what only the backing file has */
  readonly copyOnRead?: boolean;
  /** true for the one kind of write that sets the dirty bit; absent: the format has none */
  readonly setsDirtyBit?: (offset: number, data: Uint8Array) => boolean;
}

/** Not a multiple of any cluster size, and beyond the first L2 table of the smallest geometry. */
const SIZE = 2 * 1024 * 1024 + 5 * 512;

/** An image with what it must read as. */
class Subject {
  readonly file: MemoryHostFile;
  readonly dataFile: MemoryHostFile | undefined;
  model: Uint8Array;
  private readonly variant: DiskVariant;
  private closed: { readonly content: Uint8Array; readonly facts: ClosedFacts } | null = null;
  private readonly backing: WritableImage | null;

  constructor(variant: DiskVariant) {
    this.variant = variant;
    const { file, dataFile, backing, initial } = variant.create(SIZE);
    this.file = file;
    this.dataFile = dataFile;
    this.backing = backing;
    this.model = initial;
  }

  open(
    file: HostFile = this.file,
    options: { readOnly?: boolean; log?: (sentence: string) => void; dataFile?: HostFile | undefined } = {},
  ): VirtualDisk {
    const { backing, dataFile } = this;
    const { password } = this.variant;
    const image = openImage(this.variant.format, file, {
      ...{ backing, dataFile, tableCacheBytes: 8192 },
      ...(password === undefined ? {} : { password }),
      closedFacts: this.factsFor(file),
      ...options,
    });
    if (this.variant.opensWithFacts === true) return new VirtualDisk(image, { marks: { keep: this.remember } });
    if (this.variant.copyOnRead !== true || image.readOnly) return new VirtualDisk(image);
    const copyOnRead = new CopyOnRead(image, createCopyOnReadState(), options.log ?? (() => undefined));
    return new VirtualDisk(image, { copyOnRead });
  }

  private readonly remember = (image: WritableImage): void => {
    this.closed = { content: this.file.bytes(), facts: factsOf(image)! };
  };

  /** Those of the last close, if no byte of the file has changed since. */
  private factsFor(file: HostFile): ClosedFacts | undefined {
    if (this.closed === null) return undefined;
    const { content, facts } = this.closed;
    const now = new Uint8Array(file.size());
    file.read(now, 0, now.length, hostOffset(0));
    return Buffer.compare(now, content) === 0 ? facts : undefined;
  }

  /** With a wrapper around each of its files. */
  openWrapped(
    wrap: (file: HostFile) => HostFile,
    options: { readOnly?: boolean; log?: (sentence: string) => void } = {},
  ): VirtualDisk {
    return this.open(wrap(this.file), {
      ...options,
      ...(this.dataFile === undefined ? {} : { dataFile: wrap(this.dataFile) }),
    });
  }

  expectClean(): void {
    if (this.variant.format.check === undefined) return;
    const findings: string[] = [];
    const options = { repair: 'none', log: (finding: string) => findings.push(finding), ...this.others } as const;
    checkImage(this.variant.format, this.file, options);
    expect(findings).toEqual([]);
    expect(this.isDirty()).toBe(false);
  }

  /** As the files say. */
  isDirty(): boolean {
    return this.variant.format.inspect(this.file, undefined, this.others.openExtent).dirty;
  }

  private get others(): ReturnType<typeof besideIt> {
    return besideIt(this.dataFile === undefined ? [] : [this.dataFile]);
  }
}

function contentOf(disk: VirtualDisk): Uint8Array {
  const bytes = new Uint8Array(disk.size()).fill(0xee);
  expect(disk.read(bytes, 0, bytes.length, guestOffset(0))).toBe(bytes.length);
  return bytes;
}

/** Compares large arrays without printing them. */
function expectBytes(actual: Uint8Array, wanted: Uint8Array, what = 'first byte that differs'): void {
  expect(actual.length).toBe(wanted.length);
  const at = Buffer.compare(actual, wanted) === 0 ? -1 : actual.findIndex((byte, i) => byte !== wanted[i]);
  expect(at < 0 ? 'none' : `${at}: ${actual[at]} instead of ${wanted[at]}`, what).toBe('none');
}

/** Bytes that are never zero and differ from cluster to cluster. */
function pattern(length: number, seed: number): Uint8Array {
  const bytes = new Uint8Array(length);
  for (let i = 0; i < length; i++) bytes[i] = 1 + ((i * 31 + seed * 7 + (i >> 9)) % 255);
  return bytes;
}

/** Tells whether a range of the host file holds data clusters of the disk as it is now, and nothing else. */
function dataOf(disk: VirtualDisk): (offset: number, length: number) => boolean {
  const ranges: { start: number; end: number }[] = [];
  const { clusterSize } = disk;
  for (let at = 0; at < SIZE; ) {
    const { status, depth, length, hostOffset } = disk.extent(at);
    if (status === 'data' && depth === 0) {
      const end = hostOffset! + length;
      ranges.push({ start: hostOffset!, end: end + ((clusterSize - (end % clusterSize)) % clusterSize) });
    }
    at += length;
  }
  return (offset, length) => ranges.some(({ start, end }) => offset >= start && offset + length <= end);
}

function errnoFrom(action: () => void): number {
  try {
    action();
  } catch (error) {
    return errnoOf(error);
  }
  return 0;
}

/** One change of a disk; `apply` does the same to a byte array. */
interface Step {
  readonly name: string;
  readonly run: (disk: VirtualDisk) => void;
  readonly apply: (model: Uint8Array) => Uint8Array;
}

function writeStep(offset: number, length: number, seed: number): Step {
  const data = pattern(length, seed);
  return {
    name: `write ${length} at ${offset}`,
    run: (disk) => {
      expect(disk.write(data, 0, length, guestOffset(offset))).toBe(length);
    },
    apply: (model) => {
      const next = model.slice();
      next.set(data, offset);
      return next;
    },
  };
}

function zeroStep(kind: 'discard' | 'writeZeroes', offset: number, length: number): Step {
  return {
    name: `${kind} ${length} at ${offset}`,
    run: (disk) => disk[kind](offset, length),
    apply: (model) => model.slice().fill(0, offset, offset + length),
  };
}

function resizeStep(size: number): Step {
  return {
    name: `resize to ${size}`,
    run: (disk) => disk.resize(size),
    apply: (model) => {
      const next = new Uint8Array(size);
      next.set(model.subarray(0, size));
      return next;
    },
  };
}

const same = (model: Uint8Array): Uint8Array => model;
const flushStep: Step = { name: 'flush', run: (disk) => disk.flush(), apply: same };

/** Touches every path that changes an image: new tables, data runs, partial clusters, freeing and reuse, both ways of resizing. */
const WORKLOAD: readonly Step[] = [
  writeStep(1000, 3000, 1),
  writeStep(300_000, 150_000, 2),
  flushStep,
  writeStep(2_097_000, 2000, 3),
  zeroStep('discard', 310_000, 90_001),
  flushStep,
  flushStep,
  writeStep(70_000, 40_000, 4),
  zeroStep('writeZeroes', 2000, 140_000),
  { name: 'preallocate', run: (disk) => disk.preallocate(500_000, 10_000), apply: same },
  resizeStep(1_000_448),
  resizeStep(SIZE),
  writeStep(999_000, 5000, 5),
  flushStep,
];

/** The workload, without the resizes if the disk keeps its size. */
function workloadOf({ format }: DiskVariant): readonly Step[] {
  return WORKLOAD.filter(({ name }) => format.can.resize || !name.startsWith('resize'));
}

const CHANGES: readonly HostOperation[] = ['write', 'truncate', 'punch-hole', 'zero-range', 'allocate'];

/** Fails operation `position` (counted from 0 among those of `kinds`) once, or it and every later one. */
function failAt(
  kinds: readonly HostOperation[],
  position: number,
  errno: number,
  state: { hit: boolean; operation?: string },
): FaultPlan {
  let seen = 0;
  return (operation, _count, offset, length) => {
    if (!kinds.includes(operation)) return null;
    if (seen++ !== position) return null;
    state.hit = true;
    state.operation = `${operation} of ${length} at ${offset}`;
    return errno;
  };
}

/** Changes of one kind in one step that are all tried; of more, the first and the last ones, and some in between. */
const ALL_TRIED = 12;
const ENDS_TRIED = 3;

/**
 * Which of the changes of the workload, and of the close if `closes`, are to fail, one in each run; the last number is that of none of
 * them. A run takes the longer the more changes there are: of many changes of one kind and length in one step of the workload, which
 * are hundreds of entries or clusters in a row, only some are taken, evenly spread. No step is left out, and no kind of change in it.
 */
function positionsToFail(variant: DiskVariant, kinds: readonly HostOperation[], closes: boolean): number[] {
  const subject = new Subject(variant);
  const groups = new Map<string, number[]>();
  let doing = 'open';
  let seen = 0;
  const note: FaultPlan = (operation, _count, _offset, length) => {
    if (!kinds.includes(operation)) return null;
    const key = operation === 'truncate' ? `${doing}: truncate` : `${doing}: ${operation} of ${length}`;
    groups.set(key, [...(groups.get(key) ?? []), seen++]);
    return null;
  };
  const disk = subject.openWrapped((file) => new FaultyHostFile(file, note));
  for (const [i, step] of workloadOf(variant).entries()) {
    doing = `${i}`;
    step.run(disk);
  }
  if (closes) {
    // a look at all of it copies with copy-on-read
    doing = 'look';
    contentOf(disk);
    doing = 'close';
    disk.close();
  }
  return [...[...groups.values()].flatMap(spread).sort((a, b) => a - b), seen];
}

function spread(positions: readonly number[]): readonly number[] {
  const { length } = positions;
  if (length <= ALL_TRIED) return positions;
  const between = ALL_TRIED - 2 * ENDS_TRIED;
  const inner = Array.from({ length: between }, (_, i) => {
    const part = (i + 1) / (between + 1);
    return positions[Math.round(ENDS_TRIED - 1 + part * (length - 2 * ENDS_TRIED + 1))]!;
  });
  return [...positions.slice(0, ENDS_TRIED), ...inner, ...positions.slice(-ENDS_TRIED)];
}

export function describeVirtualDisk(variant: DiskVariant): void {
  describe(variant.name, () => {
    describeReading(() => writtenDisk(variant));
    describeRanges(variant);
    if (variant.format.can.resize) describeSizes(variant);
    else describeFixedSize(variant);
    describeDurability(variant);
    describeFaults(variant);
  });
}

/** A disk with every kind of range. */
function writtenDisk(variant: DiskVariant): ReadSubject {
  const subject = new Subject(variant);
  const disk = subject.open();
  const write = (source: Uint8Array, at: number): void => {
    const count = disk.write(source, 0, source.length, guestOffset(at));
    subject.model.set(source.subarray(0, count), at);
  };
  // backwards, so that no two neighbours adjoin; with gaps, and with zeros in between
  for (let at = SIZE - 8192; at >= 0; at -= 8192) {
    if (at % 65_536 !== 0) write(pattern(8192, at), at);
  }
  write(pattern(5000, 3), 20_000);
  disk.flush();
  disk.discard(90_000, 200_000);
  disk.discard(300_000, 100_000);
  disk.writeZeroes(500_000, 9000);
  for (const [start, end] of [
    [90_000, 290_000],
    [300_000, 400_000],
    [500_000, 509_000],
  ] as const) {
    subject.model.fill(0, start, end);
  }
  return {
    disk,
    content: subject.model,
    dataFile: variant.password === undefined ? (subject.dataFile ?? subject.file) : null,
  };
}

function describeRanges(variant: DiskVariant): void {
  test('a new disk reads as its backing data and zeros', () => {
    const subject = new Subject(variant);
    const disk = subject.open();
    expect(disk.size()).toBe(SIZE);
    expectBytes(contentOf(disk), subject.model);
  });

  test('a request of no bytes does nothing, wherever it lies', () => {
    const subject = new Subject(variant);
    const recording = new RecordingHostFile(subject.file);
    const disk = subject.open(recording);
    for (const at of [0, 17, SIZE, SIZE + 1]) {
      expect(disk.read(new Uint8Array(0), 0, 0, guestOffset(at))).toBe(0);
      expect(disk.write(new Uint8Array(0), 0, 0, guestOffset(at))).toBe(0);
      disk.discard(at, 0);
      disk.writeZeroes(at, 0);
      disk.preallocate(at, 0);
    }
    expect(recording.log).toEqual([]);
    disk.close();
  });

  test('a write that crosses the end is short, and one behind it is EFBIG', () => {
    const subject = new Subject(variant);
    const disk = subject.open();
    expect(disk.write(pattern(1000, 1), 0, 1000, guestOffset(SIZE - 300))).toBe(300);
    subject.model.set(pattern(1000, 1).subarray(0, 300), SIZE - 300);
    expect(errnoFrom(() => disk.write(pattern(10, 1), 0, 10, guestOffset(SIZE)))).toBe(ERRNO.EFBIG);
    expect(errnoFrom(() => disk.write(pattern(10, 1), 0, 10, guestOffset(SIZE + 9999)))).toBe(ERRNO.EFBIG);
    expect(disk.size()).toBe(SIZE);
    expectBytes(contentOf(disk), subject.model);
    disk.close();
    subject.expectClean();
  });

  test('discard and write-zeroes beyond the end are cut at the end', () => {
    const subject = new Subject(variant);
    const disk = subject.open();
    disk.write(pattern(9000, 1), 0, 9000, guestOffset(SIZE - 9000));
    disk.discard(SIZE - 100, 5000);
    disk.writeZeroes(SIZE - 9000, 1e9);
    disk.discard(SIZE + 100, 5000);
    subject.model.fill(0, SIZE - 9000);
    expect(disk.size()).toBe(SIZE);
    expectBytes(contentOf(disk), subject.model);
  });

  test('writes and reads at every unaligned position of a cluster boundary meet their bytes', () => {
    const subject = new Subject(variant);
    const disk = subject.open();
    const { clusterSize } = disk;
    let seed = 0;
    for (const boundary of [clusterSize, 5 * clusterSize, 512 * 4096, SIZE - (SIZE % clusterSize)].filter(
      (at) => at < SIZE,
    )) {
      for (const [back, length] of [
        [1, 2],
        [511, 1],
        [513, 1026],
        [4095, 4097],
        [clusterSize, 2 * clusterSize - 1],
        [0, 1],
      ] as const) {
        const offset = boundary - back;
        if (offset < 0) continue;
        const data = pattern(Math.min(length, SIZE - offset), ++seed);
        disk.write(data, 0, data.length, guestOffset(offset));
        subject.model.set(data, offset);
        const from = Math.max(0, offset - 10);
        const count = Math.min(data.length + 20, SIZE - from);
        const target = new Uint8Array(count + 5);
        expect(disk.read(target, 3, count, guestOffset(from))).toBe(count);
        expectBytes(target.slice(3, 3 + count), subject.model.slice(from, from + count));
      }
    }
    expectBytes(contentOf(disk), subject.model);
    disk.close();
    subject.expectClean();
    expectBytes(contentOf(subject.open()), subject.model);
  });

  test.each([
    'discard',
    'writeZeroes',
  ] as const)('%s of parts of clusters reads as zeros, also over backing data', (kind) => {
    for (const written of [false, true]) {
      const subject = new Subject(variant);
      const disk = subject.open();
      const { clusterSize } = disk;
      if (written) {
        const data = pattern(Math.min(6 * clusterSize, SIZE - 100), 9);
        disk.write(data, 0, data.length, guestOffset(100));
        subject.model.set(data, 100);
      }
      for (const [offset, length] of [
        [clusterSize + 100, 50],
        [2 * clusterSize - 1, 2],
        [3 * clusterSize, clusterSize],
        [4 * clusterSize + 1, 2 * clusterSize],
        [SIZE - 700, 700],
      ] as const) {
        disk[kind](offset, length);
        if (offset < SIZE) subject.model.fill(0, offset, Math.min(offset + length, SIZE));
        expectBytes(contentOf(disk), subject.model, `after ${kind} ${length} at ${offset}`);
      }
      disk.close();
      subject.expectClean();
      expectBytes(contentOf(subject.open()), subject.model);
    }
  });

  test('a partial write after a discard does not bring back what was below', () => {
    const subject = new Subject(variant);
    const disk = subject.open();
    disk.discard(0, SIZE);
    subject.model.fill(0);
    const offset = disk.clusterSize + 700;
    disk.write(pattern(9, 3), 0, 9, guestOffset(offset));
    subject.model.set(pattern(9, 3), offset);
    expectBytes(contentOf(disk), subject.model);
    disk.close();
    subject.expectClean();
    expectBytes(contentOf(subject.open()), subject.model);
  });

  test('preallocating changes no byte', () => {
    const subject = new Subject(variant);
    const disk = subject.open();
    disk.write(pattern(5000, 3), 0, 5000, guestOffset(20_000));
    subject.model.set(pattern(5000, 3), 20_000);
    disk.preallocate(3000, 200_000);
    disk.preallocate(SIZE - 5000, 5000);
    expectBytes(contentOf(disk), subject.model);
    disk.close();
    subject.expectClean();
    expectBytes(contentOf(subject.open()), subject.model);
  });
}

function describeSizes(variant: DiskVariant): void {
  const sizes = [512, 1024 * 1024, 1024 * 1024 + 512, SIZE - 512, SIZE - 4096];

  test.each(sizes)('shrinking to %i and growing again shows neither stale nor backing bytes', (size) => {
    const subject = new Subject(variant);
    let disk = subject.open();
    const full = pattern(SIZE, 5);
    disk.write(full, 0, SIZE, guestOffset(0));
    disk.resize(size);
    expect(disk.size()).toBe(size);
    expectBytes(contentOf(disk), full.slice(0, size));
    disk.resize(SIZE);
    const wanted = new Uint8Array(SIZE);
    wanted.set(full.subarray(0, size));
    expectBytes(contentOf(disk), wanted);
    disk.close();
    subject.expectClean();
    disk = subject.open();
    expectBytes(contentOf(disk), wanted);
    disk.close();
  });

  test.each(sizes)('the same with a reopening between: %i', (size) => {
    const subject = new Subject(variant);
    let disk = subject.open();
    disk.write(pattern(3000, 5), 0, 3000, guestOffset(size - 500));
    disk.resize(size);
    disk.close();
    subject.expectClean();
    disk = subject.open();
    const before = contentOf(disk);
    disk.resize(SIZE + 70_144);
    disk.close();
    subject.expectClean();
    disk = subject.open();
    const wanted = new Uint8Array(SIZE + 70_144);
    wanted.set(before);
    expectBytes(contentOf(disk), wanted);
    disk.close();
  });

  test('a grown part can be written and read at once', () => {
    const subject = new Subject(variant);
    const disk = subject.open();
    disk.resize(SIZE + 1_000_448);
    disk.write(pattern(4000, 1), 0, 4000, guestOffset(SIZE + 1_000_448 - 4000));
    const target = new Uint8Array(4000);
    disk.read(target, 0, 4000, guestOffset(SIZE + 1_000_448 - 4000));
    expectBytes(target, pattern(4000, 1));
    disk.close();
    subject.expectClean();
  });

  test('a resize to the present size changes no byte of the file', () => {
    const subject = new Subject(variant);
    const before = subject.file.bytes();
    const disk = subject.open();
    disk.resize(SIZE);
    disk.close();
    expectBytes(subject.file.bytes(), before);
  });
}

function describeFixedSize(variant: DiskVariant): void {
  test('a resize is refused and changes no byte of the file', () => {
    const subject = new Subject(variant);
    const before = subject.file.bytes();
    const disk = subject.open();
    for (const size of [512, SIZE, 2 * SIZE]) expect(errnoFrom(() => disk.resize(size))).toBe(ERRNO.EOPNOTSUPP);
    disk.close();
    expectBytes(subject.file.bytes(), before);
  });
}

function describeDurability(variant: DiskVariant): void {
  test('closing with nothing written changes no byte of the file and syncs nothing', () => {
    const subject = new Subject(variant);
    if (variant.copyOnRead === true) {
      // the first reads write
      const first = subject.open();
      contentOf(first);
      first.close();
    }
    const recordings: RecordingHostFile[] = [];
    const disk = subject.openWrapped((file) => recordings[recordings.push(new RecordingHostFile(file)) - 1]!);
    contentOf(disk);
    disk.flush();
    disk.maintain(steadyMs() + 60_000);
    disk.makeClean();
    disk.close();
    expect(recordings.flatMap(({ log }) => log)).toEqual([]);
  });

  test('a flush with nothing to do costs no fdatasync, and one after an in-place write costs one', () => {
    const subject = new Subject(variant);
    const counters: CountingHostFile[] = [];
    const disk = subject.openWrapped((file) => counters[counters.push(new CountingHostFile(file)) - 1]!);
    const syncs = () => Math.max(...counters.map(({ calls }) => calls.sync));
    disk.write(pattern(70_000, 1), 0, 70_000, guestOffset(100));
    disk.flush();
    for (const counting of counters) counting.reset();
    disk.flush();
    disk.flush();
    expect(syncs()).toBe(0);
    disk.write(pattern(500, 2), 0, 500, guestOffset(4000));
    expect(syncs()).toBe(0);
    disk.flush();
    expect(syncs()).toBe(1);
    disk.flush();
    expect(syncs()).toBe(1);
  });

  test('flushes come to rest after a discard', () => {
    const subject = new Subject(variant);
    const counting = new CountingHostFile(subject.file);
    const disk = subject.open(counting);
    disk.write(pattern(300_000, 1), 0, 300_000, guestOffset(100));
    disk.discard(0, 300_000);
    for (let i = 0; i < 4; i++) disk.flush();
    counting.reset();
    disk.flush();
    expect(counting.calls.sync).toBe(0);
  });

  test('a read-only disk writes nothing, whatever is asked of it, and refuses changes with EROFS', () => {
    const subject = new Subject(variant);
    const writer = subject.open();
    for (const step of WORKLOAD.slice(0, 3)) step.run(writer);
    // the writer is left open, so that the file is unclean where the format can say so
    const image = subject.file.clone();
    const recording = new RecordingHostFile(readOnlyView(image));
    const disk = subject.open(recording, { readOnly: true });
    contentOf(disk);
    expect(errnoFrom(() => disk.write(new Uint8Array(9), 0, 9, guestOffset(5)))).toBe(ERRNO.EROFS);
    expect(errnoFrom(() => disk.discard(0, 100_000))).toBe(ERRNO.EROFS);
    expect(errnoFrom(() => disk.writeZeroes(0, 100_000))).toBe(ERRNO.EROFS);
    expect(errnoFrom(() => disk.preallocate(0, 100_000))).toBe(ERRNO.EROFS);
    expect(errnoFrom(() => disk.resize(SIZE * 2))).toBe(ERRNO.EROFS);
    disk.flush();
    disk.maintain(steadyMs() + 60_000);
    disk.makeClean();
    disk.close();
    expect(recording.log).toEqual([]);
  });

  test('what a flush covered is in the file: a copy of it opens and reads the same', () => {
    const subject = new Subject(variant);
    const disk = subject.open();
    for (const step of workloadOf(variant)) {
      step.run(disk);
      subject.model = step.apply(subject.model);
      if (step.name !== 'flush') disk.flush();
      expectBytes(contentOf(subject.open(subject.file.clone())), subject.model, `after ${step.name}`);
    }
  });

  if (variant.setsDirtyBit === undefined) return;
  const { setsDirtyBit } = variant;

  test.each(
    workloadOf(variant).filter((step) => step.apply !== same || step.name === 'preallocate'),
  )('the dirty bit is set and durable before anything else is changed by $name (R7)', (step) => {
    const subject = new Subject(variant);
    const preparation = subject.open();
    preparation.write(pattern(200_000, 1), 0, 200_000, guestOffset(200_000));
    preparation.close();
    const recording = new RecordingHostFile(subject.file);
    const disk = subject.open(recording);
    const isData = dataOf(disk);
    step.run(disk);
    const { log } = recording;
    // a step that changes data in place only needs no bit
    const first = log.findIndex(
      ({ operation, offset, data }) => operation === 'write' && data !== undefined && setsDirtyBit(offset, data),
    );
    if (first < 0) {
      expect(subject.isDirty()).toBe(false);
      return;
    }
    expect(log[first + 1]?.operation).toBe('sync');
    const earlier = log.slice(0, first).filter(({ offset, length }) => !isData(offset, length));
    expect(earlier.map(({ operation, offset }) => `${operation} at ${offset}`)).toEqual([]);
  });

  test('the dirty bit is cleared by a close, by makeClean, and after five idle seconds', () => {
    const isDirty = (subject: Subject) => subject.isDirty();
    const subject = new Subject(variant);
    const disk = subject.open();
    disk.write(pattern(10, 1), 0, 10, guestOffset(100));
    expect(isDirty(subject)).toBe(true);
    disk.flush();
    expect(isDirty(subject)).toBe(true);
    disk.makeClean();
    expect(isDirty(subject)).toBe(false);
    disk.write(pattern(10, 1), 0, 10, guestOffset(1_300_000));
    disk.maintain(steadyMs() + 4900);
    expect(isDirty(subject)).toBe(true);
    disk.maintain(steadyMs() + 5100);
    expect(isDirty(subject)).toBe(false);
    disk.write(pattern(10, 1), 0, 10, guestOffset(2_098_000));
    expect(isDirty(subject)).toBe(true);
    disk.close();
    expect(isDirty(subject)).toBe(false);
    subject.expectClean();
  });
}

function describeFaults(variant: DiskVariant): void {
  test('a full host at any change fails that request only: reading goes on, and so does writing once there is space', () => {
    const positions = positionsToFail(variant, CHANGES, true);
    expect(positions.length).toBeGreaterThan(5);
    for (const position of positions) {
      const subject = new Subject(variant);
      const state = { hit: false };
      const plan = failAt(CHANGES, position, ERRNO.ENOSPC, state);
      const disk = subject.openWrapped((file) => new FaultyHostFile(file, plan));
      const where = () => `position ${position}, ${JSON.stringify(state)}`;
      for (const step of workloadOf(variant)) {
        const wasHit = state.hit;
        try {
          step.run(disk);
        } catch (error) {
          expect(errnoOf(error), `${where()}: ${(error as Error).message}`).toBe(ERRNO.ENOSPC);
          expect(wasHit).toBe(false);
          contentOf(disk);
          step.run(disk);
        }
        subject.model = step.apply(subject.model);
        if (state.hit !== wasHit) expectBytes(contentOf(disk), subject.model, `${where()}, after ${step.name}`);
      }
      expectBytes(contentOf(disk), subject.model, where());
      expect(disk.status().failure, where()).toBe(null);
      const wasHit = state.hit;
      const errno = errnoFrom(() => disk.close());
      if (!wasHit && state.hit) {
        // what fails at the close is found and mended by the next open
        expect([0, ERRNO.EIO]).toContain(errno);
        subject.open().close();
        if (variant.holdsLinksBack === true) {
          checkImage(variant.format, subject.file, { repair: 'leaks', log: () => undefined });
          subject.expectClean();
          continue;
        }
      } else {
        expect(errno, where()).toBe(0);
      }
      subject.expectClean();
      expectBytes(contentOf(subject.open()), subject.model, where());
      expect(state.hit).toBe(position !== positions.at(-1));
    }
  });

  test('an error in a change of data fails that request only, one of metadata turns the disk read-only with memory as on disk', () => {
    const positions = positionsToFail(variant, ['write'], false);
    for (const position of positions) {
      const subject = new Subject(variant);
      const state: { hit: boolean; operation?: string } = { hit: false };
      const plan = failAt(['write'], position, ERRNO.EIO, state);
      const disk = subject.openWrapped((file) => new FaultyHostFile(file, plan));
      const where = () => `position ${position}, ${state.operation}`;
      let failed = false;
      for (const step of workloadOf(variant)) {
        try {
          step.run(disk);
        } catch (error) {
          expect(errnoOf(error), where()).toBe(ERRNO.EIO);
          failed = true;
          if (disk.status().failure !== null) break;
          step.run(disk);
        }
        subject.model = step.apply(subject.model);
      }
      expect(failed).toBe(state.hit);
      if (!state.hit) continue;
      const now = contentOf(disk);
      if (disk.status().failure === null) {
        expectBytes(now, subject.model, where());
        disk.close();
        subject.expectClean();
        continue;
      }
      expect(
        errnoFrom(() => disk.write(new Uint8Array(5), 0, 5, guestOffset(0))),
        where(),
      ).toBe(ERRNO.EROFS);
      expect(
        errnoFrom(() => disk.discard(0, 100_000)),
        where(),
      ).toBe(ERRNO.EROFS);
      expect(
        errnoFrom(() => disk.resize(512)),
        where(),
      ).toBe(variant.format.can.resize ? ERRNO.EROFS : ERRNO.EOPNOTSUPP);
      expect(
        errnoFrom(() => disk.flush()),
        where(),
      ).toBe(ERRNO.EIO);
      const copy = subject.file.clone();
      // links that were held back for their data are in memory only, so over backing data the disk may be behind
      if (subject.open(copy, { readOnly: true }).status().backing.length === 0 && variant.holdsLinksBack !== true) {
        expectBytes(contentOf(subject.open(copy)), now, where());
      }
      expect(
        errnoFrom(() => disk.close()),
        where(),
      ).toBe(ERRNO.EIO);
    }
  });

  test('after a failed fdatasync nothing is trusted: writes and flushes fail, and the dirty bit stays set', () => {
    const total = countSyncs(variant);
    for (let position = 0; position < total; position++) {
      const subject = new Subject(variant);
      const state = { hit: false };
      const logged: string[] = [];
      const plan = failAt(['sync'], position, ERRNO.EIO, state);
      const disk = subject.openWrapped((file) => new FaultyHostFile(file, plan), {
        log: (sentence) => logged.push(sentence),
      });
      let errno = 0;
      for (const step of workloadOf(variant)) {
        errno = errnoFrom(() => step.run(disk));
        if (errno !== 0) break;
      }
      const closed = errno === 0;
      if (closed) errno = errnoFrom(() => disk.close());
      expect(state.hit).toBe(true);
      expect(errno, `position ${position}`).toBe(ERRNO.EIO);
      expect(disk.status().failure).toContain('sync');
      expect(logged.join()).toContain('read-only from now on');
      expect(errnoFrom(() => disk.write(new Uint8Array(5), 0, 5, guestOffset(0)))).toBe(ERRNO.EROFS);
      expect(errnoFrom(() => disk.flush())).toBe(ERRNO.EIO);
      if (!closed) expect(errnoFrom(() => disk.close())).toBe(ERRNO.EIO);
      contentOf(disk);
      // the very last fdatasync is the one after the bit was cleared, when everything else was durable
      if (variant.setsDirtyBit !== undefined && position < total - 1) {
        expect(subject.isDirty(), `position ${position}`).toBe(true);
      }
    }
  });
}

function countSyncs(variant: DiskVariant): number {
  const subject = new Subject(variant);
  const counters: CountingHostFile[] = [];
  const disk = subject.openWrapped((file) => counters[counters.push(new CountingHostFile(file)) - 1]!);
  for (const step of workloadOf(variant)) step.run(disk);
  disk.close();
  return counters.reduce((sum, { calls }) => sum + calls.sync, 0);
}
