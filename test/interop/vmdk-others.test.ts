// VMDK beside readers and writers that are not QEMU: libvmdk (vmdkinfo, vmdkmount) for images that are made here, and VMDKstream for
// streamed ones that are read here. libvmdk reads the second copy of the tables, so it also tells whether that one is kept.

import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { createDisk, inspectDisk } from '../../src/disk/index.ts';
import { StreamWriter } from '../../src/format/vmdk/stream/writer.ts';
import { PosixHostFile } from '../../src/host/posix-file.ts';
import { changeDisk, firstDifference, readAll, withDisk } from '../support/image-files.ts';
import { seededRandom } from '../support/random.ts';
import { canMountAsRoot, hasCommand, requireOrSkip } from '../support/requirements.ts';
import { makeTemporaryDirectory, removeTemporaryDirectory } from '../support/temporary.ts';
import { descriptorText } from '../support/vmdk-text.ts';

const MIB = 1024 * 1024;
const SIZE = 5 * MIB + 3 * 512;
/** Debian's python3-vmdkstream is one of its own Python. */
const PYTHON = '/usr/bin/python3';
const VMDKSTREAM = '/usr/lib/python3/dist-packages/VMDKstream.py';

let folder: string;
let image: string;
beforeEach(() => {
  folder = makeTemporaryDirectory();
  image = join(folder, 'disk.vmdk');
});
afterEach(() => removeTemporaryDirectory(folder));

/** What libvmdk reads of the last image of a chain. */
function libvmdkReads(path: string): Buffer {
  const mountpoint = join(folder, 'libvmdk');
  mkdirSync(mountpoint, { recursive: true });
  execFileSync('vmdkmount', [path, mountpoint], { stdio: 'pipe' });
  try {
    const disks = execFileSync('ls', [mountpoint], { encoding: 'utf8' }).trim().split('\n').sort();
    return readFileSync(join(mountpoint, disks.at(-1)!));
  } finally {
    execFileSync('umount', [mountpoint], { stdio: 'pipe' });
  }
}

/** Data of all lengths, a part of which cannot be compressed, with zeros between. */
function diskOf(bytes: number, seed: number): Buffer {
  const random = seededRandom(seed);
  const disk = Buffer.alloc(bytes);
  for (let at = 0; at < bytes; ) {
    const end = Math.min(bytes, at + 1 + Math.floor(random() * 200_000));
    const way = random();
    if (way < 0.4) disk.fill(`${at} `, at, end);
    else if (way < 0.6) for (let i = at; i < end; i++) disk[i] = Math.floor(random() * 256);
    at = end;
  }
  return disk;
}

describe('libvmdk', () => {
  beforeEach((context) =>
    requireOrSkip(context, canMountAsRoot() && hasCommand('vmdkmount'), 'root and libvmdk-utils'),
  );

  // it knows no monolithicFlat and no grains of 4 KiB, and takes entries of zeroed grains for data
  test.each([
    'monolithicSparse',
    'monolithicSparse,grain_size=8k',
    'monolithicSparse,grain_size=1M',
    'twoGbMaxExtentSparse',
    'twoGbMaxExtentFlat',
  ])('reads an image of %s as it was written here', (options) => {
    const pairs = `subformat=${options}`.split(',').map((pair) => pair.split('=') as [string, string]);
    createDisk(image, 'vmdk', { size: SIZE, options: new Map(pairs) });
    const model = Buffer.alloc(SIZE);
    for (const seed of [1, 2]) {
      changeDisk(image, model, seed);
      expect(firstDifference(libvmdkReads(image), model)).toBe('none');
    }
  });

  test('reads an image that has grown and shrunk', () => {
    createDisk(image, 'vmdk', { size: SIZE, options: new Map() });
    let model = Buffer.alloc(SIZE);
    for (const [seed, size] of [70 * MIB, 2 * MIB + 512, 9 * MIB].entries()) {
      changeDisk(image, model, seed);
      withDisk(image, { readOnly: false }, (disk) => disk.resize(size));
      model = Buffer.concat([model.subarray(0, size)], size);
      expect(firstDifference(libvmdkReads(image), model)).toBe('none');
    }
  });

  test('reads a chain of three, and knows each parent by its CID', () => {
    const paths = ['base', 'middle', 'top'].map((name) => join(folder, `${name}.vmdk`));
    const model = Buffer.alloc(SIZE);
    for (const [i, path] of paths.entries()) {
      const below = i === 0 ? { size: SIZE } : { backing: basename(paths[i - 1]!), backingFormat: 'vmdk' };
      createDisk(path, 'vmdk', {
        ...below,
        options: new Map([['subformat', i === 1 ? 'twoGbMaxExtentSparse' : 'monolithicSparse']]),
      });
      changeDisk(path, model, i, 300_000);
      expect(firstDifference(libvmdkReads(path), model)).toBe('none');
    }
    const said = execFileSync('vmdkinfo', [paths[2]!], { encoding: 'utf8' });
    const cid = (key: 'cid' | 'parent-cid') =>
      `0x${(inspectDisk(paths[2]!).specific[key] as number).toString(16).padStart(8, '0')}`;
    expect(said).toContain(`Content identifier:\t\t${cid('cid')}`);
    expect(said).toContain(`Parent content identifier:\t${cid('parent-cid')}`);
    expect(said).toContain(`(${SIZE} bytes)`);
  });

  test.each([SIZE, 2 * 65_536])('reads a streamed image of %i bytes that was written here', (bytes) => {
    const wanted = diskOf(bytes, bytes);
    writeFileSync(image, '');
    const file = PosixHostFile.open(image, false);
    const descriptor = descriptorText({
      createType: 'streamOptimized',
      extents: [`RW ${bytes / 512} SPARSE "disk.vmdk"`],
    });
    const writer = new StreamWriter(file, { capacity: bytes, descriptor, descriptorBytes: 20 * 512 });
    const { grainBytes } = writer;
    for (let at = 0; at < bytes; at += grainBytes) {
      writer.writeGrain(at / grainBytes, wanted.subarray(at, at + grainBytes));
    }
    writer.finish();
    file.close();
    expect(firstDifference(libvmdkReads(image), wanted)).toBe('none');
  });
});

describe('VMDKstream', () => {
  beforeEach((context) => requireOrSkip(context, existsSync(VMDKSTREAM), 'python3-vmdkstream'));

  test.each([
    ['of whole grains', diskOf(6 * MIB, 1)],
    ['of an odd size', diskOf(SIZE, 2)],
    ['of several tables', diskOf(70 * MIB, 3)],
    ['of zeros', Buffer.alloc(MIB)],
  ])('writes a disk %s that is read here, and not written', (_, wanted) => {
    const raw = join(folder, 'disk.raw');
    writeFileSync(raw, wanted);
    execFileSync(PYTHON, ['-c', 'import sys, VMDKstream; VMDKstream.convert_to_stream(*sys.argv[1:])', raw, image], {
      stdio: 'pipe',
    });
    const disk = withDisk(image, { readOnly: true }, readAll);
    // it rounds the disk up to whole sectors, and some of its versions to more
    expect(firstDifference(disk.subarray(0, wanted.length), wanted)).toBe('none');
    expect(disk.subarray(wanted.length).every((byte) => byte === 0)).toBe(true);
    expect(inspectDisk(image).specific).toMatchObject({ 'create-type': 'streamOptimized' });
    expect(() => withDisk(image, { readOnly: false }, readAll)).toThrow(/overlay=FILE/);
  });
});
