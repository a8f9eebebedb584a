// Power cuts during a rebase: whatever is left, the header names the old backing file or the new one, the disk over that reads as
// before, and a second rebase completes the first. SEED is the beginning.

import { describe, expect, test } from 'vitest';
import { guestOffset } from '../../src/bytes/offsets.ts';
import { copyDifferences } from '../../src/disk/merge/rebase.ts';
import type { CheckedFormat, Image, WritableImage } from '../../src/format/image-format.ts';
import { qcow } from '../../src/format/qcow/index.ts';
import { qcow2 } from '../../src/format/qcow2/index.ts';
import { qed } from '../../src/format/qed/index.ts';
import { raw } from '../../src/format/raw/index.ts';
import { vdi } from '../../src/format/vdi/index.ts';
import { vhdx } from '../../src/format/vhdx/index.ts';
import { vmdk } from '../../src/format/vmdk/index.ts';
import { vpc } from '../../src/format/vpc/index.ts';
import type { HostFile } from '../../src/host/host-file.ts';
import { crashMoments } from '../support/crash-states.ts';
import { MemoryHostFile } from '../support/memory-file.ts';
import { checkImage, createMemoryImage, factsOfParent, openImage } from '../support/memory-images.ts';
import { seededRandom } from '../support/random.ts';
import { sliceOf } from '../support/slices.ts';
import { type RecordedOperation, RecordingHostFile } from '../support/wrapping-files.ts';

/** the beginning of the name of what is cut: "rebase", "rebase of QED" */
const FORMAT = process.env['POWERCUT_FORMAT'] ?? '';
const SEED = Number(process.env['SEED'] ?? Date.now() % 1_000_000);
const KIB = 1024;
const SIZE = 320 * KIB;
/** rebases that the states come from, at least */
const REBASES = 4;

const KINDS: readonly [name: string, format: CheckedFormat, options: Readonly<Record<string, string>>][] = [
  ['QED', qed, { cluster_size: '4k', table_size: '1' }],
  ['VDI', vdi, { block_size: '4k' }],
  ['qcow2', qcow2, { cluster_size: '4k' }],
  ['qcow2 with small clusters', qcow2, { cluster_size: '1k' }],
  ['qcow2 version 2', qcow2, { cluster_size: '4k', compat: '0.10' }],
  ['qcow2 with subclusters', qcow2, { cluster_size: '16k', extended_l2: 'on' }],
  ['qcow2 with lazy refcounts', qcow2, { cluster_size: '4k', lazy_refcounts: 'on' }],
  ['VHD', vpc, { block_size: '4k' }],
  ['VHD with larger blocks', vpc, { block_size: '32k' }],
  ['qcow of version 1', qcow, {}],
  ['VMDK', vmdk, { grain_size: '4k' }],
  ['VHDX', vhdx, { block_size: '1M' }],
  ['VMDK with larger grains', vmdk, { grain_size: '32k', zeroed_grain: 'on' }],
];

/** Of formats that know their parent by one word: these, of these backing files. */
const WORDS: Readonly<Record<string, Readonly<Record<string, string>>>> = {
  vmdk: { '/old': '01d01d01', '/new': '0e00e00e' },
  vhdx: { '/old': '01d01d01-0000-4000-8000-222222222222', '/new': '0e00e00e-0000-4000-8000-222222222222' },
};
type Bases = Readonly<Record<string, Image | null>>;
/** What a format that stores no name of a backing file knows of these. */
const IDENTITIES: Readonly<Record<string, string>> = {
  '/old': '01d01d01-0000-4000-8000-000000000000 01d01d01-0000-4000-8000-111111111111',
  '/new': '0e00e00e-0000-4000-8000-000000000000 0e00e00e-0000-4000-8000-111111111111',
};

/** Two raw disks that differ here and there, one of them shorter than the image, and nothing. */
function makeBases(random: () => number): Bases {
  const bytes = Buffer.alloc(400 * KIB);
  const other = Buffer.alloc(400 * KIB);
  for (let at = 0; at < bytes.length; at += 4 * KIB) {
    bytes.fill(random() < 0.6 ? 100 + (at % 97) : 0, at, at + 4 * KIB);
    if (random() < 0.5) bytes.copy(other, at, at, at + 4 * KIB);
    else other.fill(random() < 0.5 ? 200 : 0, at, at + 3 * KIB);
  }
  const base = (name: string, content: Buffer): Image =>
    openImage(raw, new MemoryHostFile(content, name, true), { readOnly: true });
  return { '/old': base('/old', bytes.subarray(0, 250 * KIB)), '/new': base('/new', other), '': null };
}

function open(format: CheckedFormat, file: HostFile, bases: Bases, readOnly: boolean): WritableImage {
  return openImage(format, file, {
    backing: bases[backingOf(format, file)]!,
    readOnly,
    tableCacheBytes: 8192,
  }) as WritableImage;
}

/** '' for none. VHD looks beside the image first, whatever the name. */
function backingOf(format: CheckedFormat, file: HostFile): string {
  const { identity, name = '' } = format.inspect(file).backing ?? {};
  return (
    Object.keys(IDENTITIES).find((each) => identity?.values[0] === IDENTITIES[each]) ??
    (name === '' ? '' : name.replace(/^\/?/, '/'))
  );
}

function setBacking(format: CheckedFormat, file: HostFile, name: string): void {
  if (name === '') {
    format.setBacking!(file, null);
    return;
  }
  // qcow of version 1 would write a name that says raw in another way
  const reference = { name, format: format === qcow ? 'qcow2' : 'raw' };
  format.setBacking!(file, reference, factsOfParent(name, SIZE, (WORDS[format.name] ?? IDENTITIES)[name]));
}

function contentOf(image: Image): Buffer {
  const content = Buffer.alloc(SIZE);
  image.read(content, 0, SIZE, guestOffset(0));
  return content;
}

function prepare(
  format: CheckedFormat,
  options: Readonly<Record<string, string>>,
  bases: Bases,
  random: () => number,
): MemoryHostFile {
  const file = createMemoryImage(format, SIZE, options, '/old');
  setBacking(format, file, '/old');
  const image = open(format, file, bases, false);
  for (let n = 0; n < 6; n++) {
    const at = Math.floor((random() * SIZE) / 512) * 512;
    const length = Math.min(SIZE - at, (1 + Math.floor(random() * 40)) * 512);
    if (random() < 0.7) image.write(new Uint8Array(length).fill(1 + n), 0, length, guestOffset(at));
    else image.discard(guestOffset(at), length);
  }
  image.close();
  return file;
}

function rebase(format: CheckedFormat, file: HostFile, bases: Bases, to: string): void {
  const image = open(format, file, bases, false);
  const work = copyDifferences(image, bases[to]!);
  while (work.next().done !== true);
  image.close();
  setBacking(format, file, to);
}

/** @returns what is wrong with the state, or null */
function judge(
  format: CheckedFormat,
  state: MemoryHostFile,
  bases: Bases,
  to: string,
  expected: Buffer,
): string | null {
  const seen = contentOf(open(format, state.clone(true), bases, true));
  if (Buffer.compare(seen, expected) !== 0) return 'the disk reads otherwise';
  rebase(format, state, bases, to);
  if (backingOf(format, state) !== to) return 'the second rebase has not changed the header';
  const after = contentOf(open(format, state.clone(true), bases, true));
  if (Buffer.compare(after, expected) !== 0) return 'after the second rebase the disk reads otherwise';
  const findings: string[] = [];
  const { corruptions, checkErrors } = checkImage(format, state, {
    repair: 'none',
    log: (text) => findings.push(text),
  });
  return corruptions + checkErrors === 0 ? null : findings[0]!;
}

describe.each(
  KINDS.filter(([name]) => `rebase of ${name}`.startsWith(FORMAT)),
)('a rebase of %s', (name, format, options) => {
  test.each(['/new', ''])(`over '%s' loses nothing at any power cut (seed ${SEED})`, { timeout: 36_000_000 }, (to) => {
    const random = seededRandom(SEED + name.length);
    const wanted = sliceOf('commitCuts');
    const failures: string[] = [];
    let states = 0;
    while (states < wanted && failures.length === 0) {
      const bases = makeBases(random);
      const start = prepare(format, options, bases, random);
      const expected = contentOf(open(format, start.clone(true), bases, true));
      const log: RecordedOperation[] = [];
      rebase(format, new RecordingHostFile(start.clone(), log), bases, to);
      let count = 0;
      for (const _ of crashMoments([start], log, () => 0)) count++;
      for (const { moment, build, subset } of crashMoments([start], log, random)) {
        if (random() * count >= wanted / REBASES) continue;
        states++;
        const wrong = judge(format, build()[0]!, bases, to, expected);
        if (wrong !== null) failures.push(`moment ${moment} of ${log.length}, subset ${subset}: ${wrong}`);
      }
    }
    console.log(`rebase of ${name} over '${to}': ${states} states`);
    expect(failures.slice(0, 3)).toEqual([]);
  });
});
