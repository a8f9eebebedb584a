// One request against a few others at every possible point: thread 1 is stopped at its first, second, ... failpoint,
// thread 2 does what it can meanwhile, thread 1 goes on. Judged are the file as a killed daemon would leave it there, the
// disk when all is done, and the closed image. Every image has the smallest table cache.

import { execFileSync } from 'node:child_process';
import { copyFileSync, linkSync, mkdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { expect } from 'vitest';
import { guestOffset } from '../../src/bytes/offsets.ts';
import type { Failpoint } from '../../src/concurrency/failpoints.ts';
import { checkDisk, createDisk, openDisk, type VirtualDisk } from '../../src/disk/index.ts';
import type { SharedImage } from '../../src/format/image-format.ts';
import { METADATA_LOCK } from '../../src/format/mapped/mapped-state.ts';
import { IN_USE_MARK } from '../../src/format/parallels/plain/state.ts';
import { MODIFY_MARK, RESERVE_LOCK } from '../../src/format/vdi/state.ts';
import { HEADERS_LOCK } from '../../src/format/vhdx/state.ts';
import { GROW_LOCK, UNCLEAN_MARK } from '../../src/format/vmdk/sparse/state.ts';
import { copyData } from '../support/image-files.ts';
import type { Operation, Script } from '../support/script.ts';

const SECTOR = 512;
/** Four L2 tables of a QED image with 4 KiB clusters, eight of a qcow2 one. */
export const SIZE = 16 * 1024 * 1024;
export const CLUSTER = 4096;
const SECTORS = SIZE / SECTOR;
const BACKING_VALUE = 200;
/** Two slices, of which the L1 table needs one. */
const TABLE_CACHE_BYTES = 8192;
/** qemu-img looks at one image out of so many. */
const JUDGED_BY_QEMU = 16;
/** The name is stored in the image; each run has a copy of its own. */
const DATA_FILE = 'disk.data';
const PASSWORD = 'secret';
/** Set in the word of a lock while a thread sleeps for it (concurrency/mutex.ts). */
const SLEEPERS = 1;

export interface Subject {
  readonly name: string;
  readonly format: 'qed' | 'qcow2' | 'qcow' | 'vdi' | 'vhdx' | 'vmdk' | 'vpc' | 'parallels';
  readonly options: readonly (readonly [string, string])[];
  readonly backing: boolean;
  /** reads copy clusters up */
  readonly copyOnRead?: boolean;
  readonly hasDataFile?: boolean;
  readonly isEncrypted?: boolean;
  /** nothing was written to it */
  readonly isEmpty?: boolean;
}

const BOTH: readonly Subject[] = [false, true].flatMap((backing) => {
  const suffix = backing ? ' over a backing file' : '';
  return [
    {
      name: `QED${suffix}`,
      format: 'qed',
      options: [
        ['cluster_size', '4k'],
        ['table_size', '2'],
      ],
      backing,
    } as const,
    { name: `vpc${suffix}`, format: 'vpc', options: [['block_size', '4k']], backing } as const,
    { name: `qcow2${suffix}`, format: 'qcow2', options: [['cluster_size', '4k']], backing } as const,
    { name: `VDI${suffix}`, format: 'vdi', options: [['block_size', '4k']], backing } as const,
    { name: `VMDK${suffix}`, format: 'vmdk', options: [['grain_size', '4k']], backing } as const,
    {
      name: `qcow2 with subclusters${suffix}`,
      format: 'qcow2',
      options: [
        ['cluster_size', '16k'],
        ['extended_l2', 'on'],
      ],
      backing,
    } as const,
  ];
});

/** Every new cluster of it is held back, and its disk keeps its size. */
export const VERSION_1: Subject = { name: 'version 1 of qcow', format: 'qcow', options: [], backing: true };

/** Parallels has no backing files. */
export const SUBJECTS: readonly Subject[] = [
  ...BOTH,
  { name: 'Parallels', format: 'parallels', options: [['cluster_size', '4k']], backing: false },
];

/** Features of qcow2 that go ways of their own. */
export const FEATURES: readonly Subject[] = [
  {
    name: 'qcow2 with lazy refcounts',
    format: 'qcow2',
    options: [
      ['cluster_size', '4k'],
      ['lazy_refcounts', 'on'],
    ],
    backing: false,
  },
  {
    name: 'qcow2 with a data file',
    format: 'qcow2',
    options: [
      ['cluster_size', '4k'],
      ['data_file', DATA_FILE],
    ],
    backing: false,
    hasDataFile: true,
  },
];

/** An open takes a while: the key is derived from the password each time. */
export const ENCRYPTED: Subject = {
  name: 'qcow2 with encryption',
  format: 'qcow2',
  options: [
    ['cluster_size', '4k'],
    ['encrypt.format', 'luks'],
    ['encrypt.iter-time', '1'],
  ],
  backing: true,
  isEncrypted: true,
};

/** Data in the first clusters of each L2 table, and a discarded cluster: what the image holds before every run. */
function prepare(disk: VirtualDisk, content: Uint8Array): void {
  const put = (cluster: number, count: number, value: number) => {
    disk.write(new Uint8Array(count * CLUSTER).fill(value), 0, count * CLUSTER, guestOffset(cluster * CLUSTER));
    content.fill(value, cluster * 8, (cluster + count) * 8);
  };
  put(0, 4, 100);
  for (const table of [1, 2]) put(table * 1024, 1, 100 + table);
  put(40, 1, 104);
  disk.discard(40 * CLUSTER, CLUSTER);
  content.fill(0, 40 * 8, 41 * 8);
}

/** What a request leaves in its sectors; null for those that change none. */
function valueLeftBy(operation: Operation): number | null {
  if (operation.kind === 'write') return operation.value;
  return operation.kind === 'discard' || operation.kind === 'zero' ? 0 : null;
}

function touches(operation: Operation, sector: number): boolean {
  if (valueLeftBy(operation) === null || !('at' in operation)) return false;
  return sector * SECTOR >= operation.at && sector * SECTOR < operation.at + operation.length;
}

/** Sectors that any of the requests changes; all others keep their content. */
function touchedSectors(operations: readonly Operation[]): Set<number> {
  const sectors = new Set<number>();
  for (const operation of operations) {
    if (valueLeftBy(operation) === null || !('at' in operation)) continue;
    for (let at = operation.at; at < operation.at + operation.length; at += SECTOR) sectors.add(at / SECTOR);
  }
  return sectors;
}

const SCRATCH = Buffer.alloc(SIZE);

/** The clusters of these sectors with their neighbours, and those that had data before, in runs. */
function rangesAround(touched: ReadonlySet<number>): { at: number; length: number }[] {
  const clusters = new Set([0, 1, 2, 3, 40, 1024, 2048]);
  for (const sector of touched) {
    const cluster = Math.floor((sector * SECTOR) / CLUSTER);
    for (const near of [cluster - 1, cluster, cluster + 1]) if (near >= 0) clusters.add(near);
  }
  const ranges: { at: number; length: number }[] = [];
  for (const cluster of [...clusters].sort((a, b) => a - b)) {
    const last = ranges.at(-1);
    if (last !== undefined && last.at + last.length === cluster * CLUSTER) last.length += CLUSTER;
    else ranges.push({ at: cluster * CLUSTER, length: CLUSTER });
  }
  return ranges;
}

/** Values a sector may have when the first `ended` of `others` are done and `concurrent` may be. */
function legalValues(
  base: number,
  concurrent: Operation,
  others: readonly Operation[],
  ended: number,
  isCrash: boolean,
  sector: number,
): Set<number> {
  const lastFlush = isCrash ? others.slice(0, ended).findLastIndex(({ kind }) => kind === 'flush') : ended - 1;
  const sure = others.slice(0, lastFlush + 1).findLast((each) => touches(each, sector));
  const legal = new Set<number>();
  if (sure !== undefined) legal.add(valueLeftBy(sure)!);
  else if (isCrash || !touches(concurrent, sector)) legal.add(base);
  if (touches(concurrent, sector)) legal.add(valueLeftBy(concurrent)!);
  for (const each of others.slice(lastFlush + 1)) if (touches(each, sector)) legal.add(valueLeftBy(each)!);
  return legal;
}

/** The image that every run begins with, closed, in the file "template". @param content receives its sectors */
export function makeTemplate(folder: string, subject: Subject, content = new Uint8Array(SECTORS)): void {
  const path = join(folder, 'template');
  const base = baseOf(subject);
  if (subject.backing) makeBase(join(folder, base.name), base.format);
  createDisk(path, subject.format, {
    size: SIZE,
    options: new Map(subject.options),
    ...passwordOf(subject),
    ...(subject.backing ? { backing: base.name, backingFormat: base.format } : {}),
  });
  const disk = openDisk(path, { readOnly: false, ...passwordOf(subject) });
  if (subject.isEmpty !== true) prepare(disk, content);
  disk.close();
  if (subject.hasDataFile) copyFileSync(join(folder, DATA_FILE), dataOf(path));
}

/** A VDI, VHDX or VMDK child knows its parent by an identity, which a raw disk has not; qcow stores raw with an absolute name. */
function baseOf({ format }: Subject): { readonly name: string; readonly format: string } {
  const needsOwn = ['qcow', 'vdi', 'vhdx', 'vmdk'].includes(format);
  return needsOwn ? { name: `base.${format}`, format } : { name: 'base.raw', format: 'raw' };
}

function makeBase(path: string, format: string): void {
  const bytes = new Uint8Array(SIZE).fill(BACKING_VALUE);
  createDisk(path, format, { size: SIZE, options: new Map() });
  const disk = openDisk(path, { readOnly: false, format });
  disk.write(bytes, 0, SIZE, guestOffset(0));
  disk.close();
}

function passwordOf({ isEncrypted }: Subject): { password?: () => Uint8Array } {
  return isEncrypted ? { password: () => new TextEncoder().encode(PASSWORD) } : {};
}

/** Where the data file of the template is kept. */
function dataOf(template: string): string {
  return `${template}.data`;
}

export class Interleaving {
  private readonly folder: string;
  private readonly script: Script;
  private readonly subject: Subject;
  private readonly content = new Uint8Array(SECTORS);
  /** the same, byte for byte */
  private readonly bytes = Buffer.alloc(SIZE);
  private readonly template: string;
  /** folder of the image as a killed daemon leaves it */
  private readonly crashed: string;
  private runs = 0;
  /** what thread 2 could not do before thread 1 went on */
  private rest: Promise<readonly { readonly error: string | null }[]> | null = null;

  /** @param folder of the test, for the image and its copies */
  constructor(folder: string, script: Script, subject: Subject) {
    this.folder = folder;
    this.script = script;
    this.subject = subject;
    this.template = join(folder, 'template');
    if (subject.backing) this.content.fill(BACKING_VALUE);
    makeTemplate(folder, subject, this.content);
    this.crashed = join(folder, 'crashed');
    mkdirSync(this.crashed);
    const base = baseOf(subject).name;
    if (subject.backing) linkSync(join(folder, base), join(this.crashed, base));
    const disk = openDisk(this.template, { readOnly: true, ...passwordOf(subject) });
    disk.read(this.bytes, 0, SIZE, guestOffset(0));
    disk.close();
  }

  /**
   * `first` stopped at each of its failpoints, `others` in their order meanwhile. @param before done, by thread 1, and
   * not flushed, at the start of every run @param only of these names, where there are hundreds @returns how many points there were
   */
  async everyPoint(
    first: Operation,
    others: readonly Operation[],
    before: readonly Operation[] = [],
    only?: readonly Failpoint[],
  ): Promise<number> {
    await this.onePoint(Number.MAX_SAFE_INTEGER, first, [], before);
    const points = this.script.pointsOf(1, only);
    for (const point of points) expect(await this.onePoint(point, first, others, before)).toBe(true);
    return points.length;
  }

  private async onePoint(
    point: number,
    first: Operation,
    others: readonly Operation[],
    before: readonly Operation[],
  ): Promise<boolean> {
    const { script } = this;
    const path = join(this.folder, `disk.${this.subject.format}`);
    rmSync(path, { force: true });
    copyFileSync(this.template, path);
    if (this.subject.hasDataFile) copyFileSync(dataOf(this.template), join(this.folder, DATA_FILE));
    const disk = openDisk(path, {
      readOnly: false,
      ...passwordOf(this.subject),
      slots: 3,
      tableCacheBytes: TABLE_CACHE_BYTES,
      copyOnRead: this.subject.copyOnRead,
    });
    let isOpen = true;
    try {
      await script.attach(disk);
      for (const operation of before) await this.mustSucceed(1, operation);
      script.clearLog();
      script.stopAtAny(1, point);
      script.begin(1, first);
      const stopped = await script.stopsBeforeItEnds(1);
      if (stopped) {
        const ended = await this.runOthers(others, disk);
        this.judgeCrash(path, first, [...before, ...others], before.length + ended, `stopped at point ${point}`);
        script.resume(1);
      }
      script.disarm(1);
      const answers: { readonly error: string | null }[] = [await script.answer(1)];
      if (stopped && this.rest !== null) answers.push(...(await this.rest));
      for (const { error } of answers) expect(error, `an answer at point ${point}`).toBeNull();
      if (stopped) this.judge(disk, first, [...before, ...others], `after point ${point}`);
      isOpen = false;
      disk.close();
      if (stopped) this.judgeClosed(path, first, [...before, ...others], `closed after point ${point}`);
      return stopped;
    } finally {
      if (isOpen) {
        // a thread that is stopped may hold the lock that the close needs
        await script.letGo();
        disk.close();
      }
    }
  }

  private async mustSucceed(thread: number, operation: Operation): Promise<void> {
    expect((await this.script.run(thread, operation)).error).toBeNull();
  }

  /** @returns how many of them are answered while thread 1 is stopped */
  private async runOthers(others: readonly Operation[], disk: VirtualDisk): Promise<number> {
    const { script } = this;
    this.rest = null;
    for (const [position, operation] of others.entries()) {
      script.begin(2, operation);
      await untilDoneOrWaiting(script, disk);
      if (script.isIdle(2)) {
        const { error } = await script.answer(2);
        expect(error).toBeNull();
        continue;
      }
      this.rest = this.runRest(others.slice(position + 1));
      return position;
    }
    return others.length;
  }

  private async runRest(others: readonly Operation[]): Promise<readonly { readonly error: string | null }[]> {
    const answers = [await this.script.answer(2)];
    for (const operation of others) answers.push(await this.script.run(2, operation));
    return answers;
  }

  /** The file as it is now, as a killed daemon leaves it: it opens, repaired if need be, and has lost nothing flushed. */
  private judgeCrash(path: string, first: Operation, others: readonly Operation[], ended: number, when: string): void {
    const copy = join(this.crashed, 'disk');
    // copyFileSync never ends if another thread cuts the file meanwhile
    copyData(path, copy);
    if (this.subject.hasDataFile) copyFileSync(join(this.folder, DATA_FILE), join(this.crashed, DATA_FILE));
    const disk = openDisk(copy, { readOnly: false, tableCacheBytes: TABLE_CACHE_BYTES, ...passwordOf(this.subject) });
    try {
      this.compare(disk, first, others, ended, true, `${when}, after a kill`);
    } finally {
      disk.close();
    }
    rmSync(copy);
  }

  private judge(disk: VirtualDisk, first: Operation, others: readonly Operation[], when: string, whole = false): void {
    this.compare(disk, first, others, others.length, false, when, whole);
  }

  private judgeClosed(path: string, first: Operation, others: readonly Operation[], when: string): void {
    const report = checkDisk(path, { repair: 'none', log: () => undefined });
    expect([report.corruptions, report.leaks, report.checkErrors], `corruptions, leaks ${when}`).toEqual([0, 0, 0]);
    const disk = openDisk(path, { readOnly: true, tableCacheBytes: TABLE_CACHE_BYTES, ...passwordOf(this.subject) });
    try {
      this.judge(disk, first, others, when, true);
    } finally {
      disk.close();
    }
    if (this.runs++ % JUDGED_BY_QEMU === 0) this.judgeByQemu(path);
  }

  private judgeByQemu(path: string): void {
    const { backing, format, isEncrypted } = this.subject;
    // it opens no VDI image with blocks of 4 KiB and no differencing VHDX, and has no check of the others
    if (['qcow', 'vdi', 'vpc'].includes(format) || (format === 'vhdx' && backing)) return;
    const options = `driver=${format},file.filename=${path}`;
    const parameters = isEncrypted
      ? ['--object', `secret,id=s,data=${PASSWORD}`, '--image-opts', `${options},encrypt.key-secret=s`]
      : ['--image-opts', options];
    // it looks for a data file in its working directory
    execFileSync('qemu-img', ['check', '-q', ...parameters], { cwd: this.folder });
  }

  /** Whole disks are read once a run, when it is closed; before, the clusters that may have changed and those with data. */
  private compare(
    disk: VirtualDisk,
    first: Operation,
    others: readonly Operation[],
    ended: number,
    isCrash: boolean,
    when: string,
    whole = false,
  ): void {
    const touched = touchedSectors([first, ...others]);
    for (const { at, length } of whole ? [{ at: 0, length: SIZE }] : rangesAround(touched)) {
      const bytes = SCRATCH.subarray(0, length);
      disk.read(bytes, 0, length, guestOffset(at));
      for (const sector of touched) {
        const inRange = sector * SECTOR - at;
        if (inRange < 0 || inRange >= length) continue;
        const legal = legalValues(this.content[sector]!, first, others, ended, isCrash, sector);
        const own = bytes.subarray(inRange, inRange + SECTOR);
        const value = own[0]!;
        if (!legal.has(value)) {
          throw new Error(`sector ${sector} is ${value} and may be ${[...legal].join(' or ')} ${when}`);
        }
        if (own.some((byte) => byte !== value)) throw new Error(`sector ${sector} is not all ${value} ${when}`);
        // all others must be as they were
        this.bytes.copy(own, 0, sector * SECTOR, (sector + 1) * SECTOR);
      }
      const expected = this.bytes.subarray(at, at + length);
      if (bytes.equals(expected)) continue;
      const wrong = bytes.findIndex((byte, i) => byte !== expected[i]);
      throw new Error(`the byte at ${at + wrong} is ${bytes[wrong]} and must be ${expected[wrong]} ${when}`);
    }
  }
}

/** Until the request of thread 2 has ended, waits for clusters, or sleeps for a lock, which only the word of the lock tells. */
export function untilDoneOrWaiting(script: Script, disk: VirtualDisk): Promise<void> {
  return script.untilIdleOrWaiting(2, () => locksOf(disk).some((word) => (word & SLEEPERS) !== 0));
}

/** Some thread holds a lock of an image of the disk. */
export function isLocked(disk: VirtualDisk): boolean {
  return locksOf(disk).some((word) => word !== 0);
}

/** The words of all locks of the images of the disk: the metadata lock, those of a mark and of a count of blocks, the flush lock. */
function locksOf(disk: VirtualDisk): number[] {
  const words: number[] = [];
  for (let image: SharedImage | null = disk.share().image; image !== null; image = image.backing) {
    words.push(...locksOfImage(image));
  }
  return words;
}

/** The metadata lock, and which other words of the state of a format are locks: of its mark, and of the count of blocks. */
const LOCK_WORDS: Readonly<Record<string, readonly number[]>> = {
  qed: [METADATA_LOCK, 2],
  qcow2: [METADATA_LOCK, 2],
  vdi: [METADATA_LOCK, MODIFY_MARK, RESERVE_LOCK],
  vhdx: [METADATA_LOCK, HEADERS_LOCK],
  vpc: [METADATA_LOCK],
  qcow: [METADATA_LOCK],
  parallels: [METADATA_LOCK, IN_USE_MARK],
};

function locksOfImage({ format, state }: SharedImage): number[] {
  // a raw image has no such locks
  if (format === 'raw') return [];
  const shared = state as LockedState & { readonly extents: readonly { readonly state: unknown }[] };
  if (format !== 'vmdk') return locksOfState(shared, LOCK_WORDS[format]!);
  const extents = shared.extents.map((extent) => extent.state as LockedState);
  return [
    ...locksOfState(shared, [METADATA_LOCK]),
    ...extents.flatMap((extent) => locksOfState(extent, [METADATA_LOCK, UNCLEAN_MARK, GROW_LOCK])),
  ];
}

interface LockedState {
  readonly words: SharedArrayBuffer;
  readonly tracker: SharedArrayBuffer;
}

function locksOfState({ tracker, words }: LockedState, places: readonly number[]): number[] {
  const values = new Int32Array(words);
  const flushLock = Atomics.load(new Int32Array(tracker, 0, 4), 2);
  return [flushLock, ...places.map((word) => Atomics.load(values, word))];
}
