// Power cuts during a commit, on both files at once: each loses its own unsynced operations. Whatever is left, the overlay over its
// base reads as before, and a second commit completes the first, which leaves both without errors. SEED is the beginning.

import { describe, expect, test } from 'vitest';
import { guestOffset } from '../../src/bytes/offsets.ts';
import { commitImages } from '../../src/disk/merge/commit.ts';
import { isMeant } from '../../src/format/backing-reference.ts';
import type { Image, WritableFormat } from '../../src/format/image-format.ts';
import { qcow } from '../../src/format/qcow/index.ts';
import { qcow2 } from '../../src/format/qcow2/index.ts';
import { qed } from '../../src/format/qed/index.ts';
import { raw } from '../../src/format/raw/index.ts';
import { vdi } from '../../src/format/vdi/index.ts';
import { vhdx } from '../../src/format/vhdx/index.ts';
import { vmdk } from '../../src/format/vmdk/index.ts';
import { vpc } from '../../src/format/vpc/index.ts';
import { crashMoments } from '../support/crash-states.ts';
import { MemoryHostFile } from '../support/memory-file.ts';
import { checkImage, createMemoryImage, openImage } from '../support/memory-images.ts';
import { plainParallels } from '../support/plain-parallels.ts';
import { seededRandom } from '../support/random.ts';
import { sliceOf } from '../support/slices.ts';
import { type RecordedOperation, RecordingHostFile } from '../support/wrapping-files.ts';

/** the beginning of the name of what is cut: "commit", "commit of QED" */
const FORMAT = process.env['POWERCUT_FORMAT'] ?? '';
const SEED = Number(process.env['SEED'] ?? Date.now() % 1_000_000);
const KIB = 1024;
const SIZE = 320 * KIB;
/** One state out of so many loses its power again during the second commit. */
const CUT_AGAIN = 8;
/** commits that the states come from, at least */
const COMMITS = 4;

interface Kind {
  readonly format: WritableFormat;
  readonly options: Readonly<Record<string, string>>;
}

const RAW: Kind = { format: raw, options: {} };
const QED: Kind = { format: qed, options: { cluster_size: '4k', table_size: '1' } };
const QCOW2: Kind = { format: qcow2, options: { cluster_size: '4k' } };
const VERSION_2: Kind = { format: qcow2, options: { cluster_size: '4k', compat: '0.10' } };
const SUBCLUSTERS: Kind = { format: qcow2, options: { cluster_size: '16k', extended_l2: 'on' } };
const LAZY: Kind = { format: qcow2, options: { cluster_size: '4k', lazy_refcounts: 'on' } };
const VDI: Kind = { format: vdi, options: { block_size: '4k' } };
const VHD: Kind = { format: vpc, options: { block_size: '4k' } };
const LARGE_BLOCKS: Kind = { format: vpc, options: { block_size: '32k' } };
const VMDK: Kind = { format: vmdk, options: { grain_size: '4k' } };
const ZERO_GRAINS: Kind = { format: vmdk, options: { grain_size: '32k', zeroed_grain: 'on' } };
const VHDX: Kind = { format: vhdx, options: { block_size: '1M' } };
const PARALLELS: Kind = { format: plainParallels, options: { cluster_size: '4k' } };
const QCOW: Kind = { format: qcow, options: {} };
const DATA_FILE: Kind = { format: qcow2, options: { cluster_size: '4k', data_file: '/data' } };

interface Pair {
  readonly name: string;
  readonly overlay: Kind;
  readonly base: Kind;
  /** bytes; the overlay has SIZE */
  readonly baseSize: number;
}

const PAIRS: readonly Pair[] = [
  { name: 'qcow2 into raw', overlay: QCOW2, base: RAW, baseSize: SIZE },
  { name: 'qcow2 into a smaller raw', overlay: QCOW2, base: RAW, baseSize: 200 * KIB + 512 },
  { name: 'qcow2 into qcow2', overlay: QCOW2, base: QCOW2, baseSize: SIZE },
  { name: 'qcow2 into a smaller qcow2', overlay: QCOW2, base: QCOW2, baseSize: 200 * KIB + 512 },
  { name: 'qcow2 into a larger QED', overlay: QCOW2, base: QED, baseSize: SIZE + 96 * KIB },
  { name: 'qcow2 version 2 into version 2', overlay: VERSION_2, base: VERSION_2, baseSize: SIZE },
  { name: 'subclusters into subclusters', overlay: SUBCLUSTERS, base: SUBCLUSTERS, baseSize: SIZE },
  { name: 'lazy refcounts into lazy refcounts', overlay: LAZY, base: LAZY, baseSize: SIZE },
  { name: 'a data file into qcow2', overlay: DATA_FILE, base: QCOW2, baseSize: SIZE },
  { name: 'qcow2 into VDI', overlay: QCOW2, base: VDI, baseSize: SIZE },
  { name: 'QED into QED', overlay: QED, base: QED, baseSize: SIZE },
  { name: 'QED into a smaller raw', overlay: QED, base: RAW, baseSize: 200 * KIB + 512 },
  { name: 'VDI into VDI', overlay: VDI, base: VDI, baseSize: SIZE },
  { name: 'VDI into a smaller VDI', overlay: VDI, base: VDI, baseSize: 200 * KIB + 512 },
  { name: 'QED into qcow2', overlay: QED, base: QCOW2, baseSize: SIZE },
  { name: 'VHD into VHD', overlay: VHD, base: VHD, baseSize: SIZE },
  { name: 'VHD into a smaller raw', overlay: VHD, base: RAW, baseSize: 200 * KIB + 512 },
  { name: 'VHD with larger blocks into a smaller VHD', overlay: LARGE_BLOCKS, base: VHD, baseSize: 200 * KIB + 512 },
  { name: 'version 1 into version 1', overlay: QCOW, base: QCOW, baseSize: SIZE },
  { name: 'version 1 into a smaller raw', overlay: QCOW, base: RAW, baseSize: 200 * KIB + 512 },
  { name: 'VMDK into VMDK', overlay: VMDK, base: VMDK, baseSize: SIZE },
  { name: 'VMDK with larger grains into a smaller VMDK', overlay: ZERO_GRAINS, base: VMDK, baseSize: 200 * KIB + 512 },
  { name: 'VHDX into VHDX', overlay: VHDX, base: VHDX, baseSize: SIZE },
  { name: 'VHDX into a smaller VHDX', overlay: VHDX, base: VHDX, baseSize: 200 * KIB + 512 },
  { name: 'qcow2 into VMDK', overlay: QCOW2, base: ZERO_GRAINS, baseSize: SIZE },
  { name: 'qcow2 into VHD', overlay: QCOW2, base: LARGE_BLOCKS, baseSize: SIZE },
  { name: 'qcow2 into VHDX', overlay: QCOW2, base: VHDX, baseSize: SIZE },
  { name: 'qcow2 into Parallels', overlay: QCOW2, base: PARALLELS, baseSize: SIZE },
  { name: 'QED into a smaller Parallels', overlay: QED, base: PARALLELS, baseSize: 200 * KIB + 512 },
];

/** The overlay, its base, and the data file of the overlay if it has one. */
type Files = readonly MemoryHostFile[];

function openBoth(pair: Pair, files: readonly (MemoryHostFile | RecordingHostFile)[], readOnly: boolean): Image {
  const [overlay, base, dataFile] = files;
  const memory = { tableCacheBytes: 8192, readOnly };
  const identity = pair.overlay.format.inspect(overlay!).backing?.identity;
  const backing = openImage(pair.base.format, base!, { ...memory, committedFrom: readOnly ? undefined : identity });
  if (identity !== undefined && !isMeant(identity, backing.identity ?? ''))
    throw new Error('the base is a strange one');
  return openImage(pair.overlay.format, overlay!, { ...memory, backing, dataFile });
}

function contentOf(image: Image): Buffer {
  const content = Buffer.alloc(image.virtualSize());
  image.read(content, 0, content.length, guestOffset(0));
  return content;
}

/** Data, zeros and holes at random places, closed clean. */
function prepare(pair: Pair, random: () => number): Files {
  const dataFile = new MemoryHostFile(new Uint8Array(0), '/data');
  const base = createMemoryImage(pair.base.format, pair.baseSize, pair.base.options);
  const below = openImage(pair.base.format, base);
  change(below, random, 6, 100);
  below.close();
  const made = { dataFile, parentIdentity: pair.base.format.inspect(base).identity };
  const overlay = createMemoryImage(pair.overlay.format, SIZE, pair.overlay.options, '/base', made);
  const image = openBoth(pair, [overlay, base.clone(), dataFile], false);
  change(image, random, 8, 1);
  image.close();
  return pair.overlay === DATA_FILE ? [overlay, base, dataFile] : [overlay, base];
}

/**
 * What is found after a cut, opened as a reader does. Entries of QED may lead beyond its file then, and whoever only reads them gets
 * an error, so such a base is opened for writing once, which repairs it.
 */
function look(pair: Pair, files: Files): Image {
  const copies = files.map((file) => file.clone());
  if (pair.base.format === qed) openImage(qed, copies[1]!).close();
  return openBoth(
    pair,
    copies.map((file) => file.clone(true)),
    true,
  );
}

function change(image: Image, random: () => number, count: number, first: number): void {
  if (image.readOnly) return;
  for (let n = 0; n < count; n++) {
    const at = Math.floor((random() * image.virtualSize()) / 512) * 512;
    const length = Math.min(image.virtualSize() - at, (1 + Math.floor(random() * 60)) * 512);
    if (random() < 0.7) image.write(new Uint8Array(length).fill(first + n), 0, length, guestOffset(at));
    else image.discard(guestOffset(at), length);
  }
}

/** Runs a whole commit and closes both. */
function commit(pair: Pair, files: readonly (MemoryHostFile | RecordingHostFile)[]): void {
  const top = openBoth(pair, files, false);
  const work = commitImages(top, 1, false);
  while (work.next().done !== true);
  const { backing } = top;
  backing!.close();
  top.close();
}

function record(pair: Pair, starts: Files): RecordedOperation[] {
  const log: RecordedOperation[] = [];
  commit(
    pair,
    starts.map((file, index) => new RecordingHostFile(file.clone(), log, index)),
  );
  return log;
}

/** @returns what is wrong with the state, or null. @param again whether the power goes once more */
function judge(pair: Pair, files: Files, expected: Buffer, random: () => number, again: boolean): string | null {
  const [overlay, base] = files as [MemoryHostFile, MemoryHostFile];
  const seen = contentOf(look(pair, files));
  if (Buffer.compare(seen, expected) !== 0) return `the overlay reads otherwise ${firstDifference(seen, expected)}`;
  if (again) {
    const log = record(pair, files);
    const moments = [...crashMoments(files, log, random)];
    const chosen = moments[Math.floor(random() * moments.length)]!;
    const wrong = judge(pair, chosen.build(), expected, random, false);
    return wrong === null ? null : `after a second cut: ${wrong}`;
  }
  commit(pair, files);
  const after = look(pair, files);
  const through = contentOf(after);
  if (Buffer.compare(through, expected) !== 0)
    return `after the second commit the overlay reads otherwise ${firstDifference(through, expected)}`;
  const alone = contentOf(openImage(pair.base.format, base.clone(true), { readOnly: true })).subarray(0, SIZE);
  if (Buffer.compare(alone, expected) !== 0) return `the base lacks something ${firstDifference(alone, expected)}`;
  for (let at = 0; at < SIZE; ) {
    const { status, length } = after.mapStatus(guestOffset(at), SIZE - at);
    if (status !== 'unallocated') return `the overlay is not empty at ${at}: ${status}`;
    at += length;
  }
  return strangerIn(pair, overlay, base) ?? errorsOf(pair.overlay.format, overlay) ?? errorsOf(pair.base.format, base);
}

/** The overlay says what its base is called now. */
function strangerIn({ base, overlay }: Pair, file: MemoryHostFile, baseFile: MemoryHostFile): string | null {
  const known = overlay.format.inspect(file).backing?.identity;
  const { identity } = base.format.inspect(baseFile);
  return known === undefined || known.values[0] === identity ? null : `the overlay does not know ${identity}`;
}

function errorsOf(format: WritableFormat, file: MemoryHostFile): string | null {
  if (format.check === undefined) return null;
  const findings: string[] = [];
  const { corruptions, checkErrors } = checkImage(format, file, { repair: 'none', log: (text) => findings.push(text) });
  return corruptions + checkErrors > 0 ? `${format.name}: ${findings[0]}` : null;
}

function firstDifference(one: Buffer, other: Buffer): string {
  const at = one.findIndex((byte, index) => byte !== other[index]);
  return `at ${at}: ${one[at]} instead of ${other[at]}`;
}

describe.each(PAIRS.filter(({ name }) => `commit of ${name}`.startsWith(FORMAT)))('a commit of $name', (pair) => {
  test(`loses nothing at any power cut, and can be completed (seed ${SEED})`, { timeout: 36_000_000 }, () => {
    const random = seededRandom(SEED + PAIRS.indexOf(pair));
    const wanted = sliceOf('commitCuts');
    const failures: string[] = [];
    let states = 0;
    while (states < wanted && failures.length === 0) {
      const starts = prepare(pair, random);
      const expected = contentOf(look(pair, starts));
      const log = record(pair, starts);
      let count = 0;
      for (const _ of crashMoments(starts, log, () => 0)) count++;
      for (const { moment, subset, build } of crashMoments(starts, log, random)) {
        if (random() * count >= wanted / COMMITS) continue;
        const wrong = judge(pair, build(), expected, random, states++ % CUT_AGAIN === 0);
        if (wrong !== null) failures.push(`moment ${moment} of ${log.length}, subset ${subset}: ${wrong}`);
      }
    }
    console.log(`commit of ${pair.name}: ${states} states`);
    expect(failures.slice(0, 3)).toEqual([]);
  });
});
