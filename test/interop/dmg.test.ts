// dmg images in other readers: dmg2img, 7-Zip and QEMU read from them what this program reads.

import { execFileSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { checkDisk, inspectDisk } from '../../src/disk/index.ts';
import { ADC, BZIP2, dmgImage, LZFSE, RAW, sectorsOf, type TableSpec, XZ, ZERO, ZLIB } from '../support/dmg-bytes.ts';
import { firstDifference, readAll, withDisk } from '../support/image-files.ts';
import { compressLzfse, compressLzvn } from '../support/lzfse-encoder.ts';
import { hasQemu, qemuImg } from '../support/qemu.ts';
import { hasCommand, requireOrSkip } from '../support/requirements.ts';
import { makeTemporaryDirectory, removeTemporaryDirectory } from '../support/temporary.ts';

/** One table, as the others want it: sorted, without gaps, and the data in order. */
function tablesOf(type: number): readonly TableSpec[] {
  const runs = Array.from({ length: 9 }, (_, i) => [
    { type, content: sectorsOf(64 + i, i + 1) },
    { type: ZERO, sectors: 5 },
    { type: RAW, content: sectorsOf(3, i + 50) },
  ]);
  return [{ runs: runs.flat() }];
}

type Reader = (image: string, raw: string) => void;
const READERS: Readonly<
  Record<string, { readonly reads: readonly string[]; readonly readsFork: boolean; readonly convert: Reader }>
> = {
  dmg2img: {
    reads: ['adc', 'zlib', 'bzip2'],
    readsFork: true,
    convert: (image, raw) => void execFileSync('dmg2img', ['-s', image, raw], { stdio: 'pipe' }),
  },
  '7zz': {
    reads: ['adc', 'zlib', 'bzip2', 'lzfse', 'lzvn', 'xz'],
    readsFork: false,
    convert: (image, raw) => {
      const output = execFileSync('7zz', ['x', '-so', '-tdmg', image], { stdio: 'pipe', maxBuffer: 2 ** 28 });
      writeFileSync(raw, output);
    },
  },
  'qemu-img': {
    reads: ['zlib'],
    readsFork: true,
    convert: (image, raw) => void qemuImg('convert', '-f', 'dmg', '-O', 'raw', image, raw),
  },
};

/** Type of the runs of each kind, and what compresses them unless dmg-bytes.ts does. */
const KINDS: Readonly<Record<string, readonly [type: number, compress?: (content: Uint8Array) => Uint8Array]>> = {
  adc: [ADC],
  zlib: [ZLIB],
  bzip2: [BZIP2, (content) => execFileSync('bzip2', ['-c'], { input: content })],
  lzfse: [LZFSE, compressLzfse],
  lzvn: [LZFSE, compressLzvn],
  xz: [XZ, (content) => execFileSync('xz', ['-c'], { input: content })],
};

let folder: string;
beforeEach(() => {
  folder = makeTemporaryDirectory();
});
afterEach(() => removeTemporaryDirectory(folder));

/** Writes an image and lets another program read it; this program must read the same. */
function expectReadAlike(convert: Reader, { image, content }: ReturnType<typeof dmgImage>): void {
  const path = join(folder, 'disk.dmg');
  const raw = join(folder, 'disk.raw');
  writeFileSync(path, image);
  convert(path, raw);
  expect(firstDifference(readFileSync(raw), content)).toBe('none');
  expect(inspectDisk(path)).toMatchObject({ format: 'dmg', virtualSize: content.length });
  withDisk(path, { readOnly: true }, (disk) => expect(firstDifference(readAll(disk), content)).toBe('none'));
  expect(checkDisk(path, { repair: 'none', log: () => undefined })).toMatchObject({ corruptions: 0, checkErrors: 0 });
}

describe.each(Object.entries(READERS))('%s', (name, { reads, readsFork, convert }) => {
  beforeEach((context) => requireOrSkip(context, name === 'qemu-img' ? hasQemu : hasCommand(name), name));

  test.for(reads)('reads the same from runs of the kind %s', (kind, context) => {
    const [type, compress] = KINDS[kind]!;
    if (type === BZIP2 || type === XZ) requireOrSkip(context, hasCommand(kind), kind);
    const encoders = compress === undefined ? {} : { [type]: compress };
    expectReadAlike(convert, dmgImage({ tables: tablesOf(type) }, encoders));
  });

  // test.runIf would count as a skip
  if (readsFork)
    test('reads the same from an image with a resource fork', () => {
      expectReadAlike(convert, dmgImage({ tables: tablesOf(ZLIB), fork: true }));
    });
});
