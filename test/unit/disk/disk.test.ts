// The disk layer over files: creating leaves no half-made file, opening returns a working disk or nothing, closing always
// gives files and locks back, and another thread's object sees the same disk.

import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  realpathSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { guestOffset } from '../../../src/bytes/offsets.ts';
import {
  attachDisk,
  type CreateDiskOptions,
  checkDisk,
  createDisk,
  formatByName,
  formats,
  inspectDisk,
  openDisk,
} from '../../../src/disk/index.ts';
import { formatOf } from '../../../src/disk/probe.ts';
import { ImgfuseError } from '../../../src/errors/index.ts';
import { MemoryHostFile } from '../../support/memory-file.ts';
import { writeQed } from '../../support/qed-bytes.ts';
import { makeTemporaryDirectory, removeTemporaryDirectory } from '../../support/temporary.ts';

const NO_OPTIONS = new Map<string, string>();

let folder: string;
let image: string;

beforeEach(() => {
  folder = makeTemporaryDirectory();
  image = join(folder, 'disk.qed');
});
afterEach(() => removeTemporaryDirectory(folder));

function kindOf(action: () => unknown): string {
  try {
    action();
  } catch (error) {
    expect(error).toBeInstanceOf(ImgfuseError);
    return (error as ImgfuseError).kind;
  }
  return 'none';
}

function openFiles(): string[] {
  return readdirSync('/proc/self/fd').flatMap((fd) => {
    try {
      const target = readlinkSync(`/proc/self/fd/${fd}`);
      return target.startsWith(folder) ? [target] : [];
    } catch {
      return [];
    }
  });
}

function create(format = 'qed', options: Partial<CreateDiskOptions> = {}): void {
  createDisk(image, format, { size: 1024 * 1024, options: NO_OPTIONS, ...options });
}

describe('creating', () => {
  test('returns the virtual size, and the image opens clean', () => {
    expect(createDisk(image, 'qed', { size: 1536, options: NO_OPTIONS })).toEqual({ virtualSize: 1536 });
    expect(inspectDisk(image)).toMatchObject({ format: 'qed', virtualSize: 1536, clusterSize: 65_536, dirty: false });
  });

  test.each([
    ['an unknown format', 'qcow9', {}],
    ['an unknown option', 'qed', { options: new Map([['colour', 'red']]) }],
    ['a cluster size out of range', 'qed', { options: new Map([['cluster_size', '2k']]) }],
    ['a table size out of range', 'qed', { options: new Map([['table_size', '32']]) }],
    [
      'a geometry that QEMU refuses',
      'qed',
      {
        options: new Map([
          ['cluster_size', '64M'],
          ['table_size', '16'],
        ]),
      },
    ],
    [
      'more than the tables map',
      'qed',
      {
        size: 2 ** 31,
        options: new Map([
          ['cluster_size', '4k'],
          ['table_size', '1'],
        ]),
      },
    ],
    ['no size', 'qed', { size: undefined }],
    ['a backing file without its format', 'qed', { backing: 'base' }],
    ['a backing file of a raw image', 'raw', { backing: 'base', backingFormat: 'raw' }],
    ['a backing name that is too long', 'qed', { backing: 'b'.repeat(5000), backingFormat: 'raw' }],
  ] as const)('with %s is refused, and no file stays behind', (_name, format, options) => {
    expect(kindOf(() => create(format, options))).toMatch(/usage|limit/);
    expect(readdirSync(folder)).toEqual([]);
    expect(openFiles()).toEqual([]);
  });

  test('never overwrites a file, whatever is wrong with the options', () => {
    writeFileSync(image, 'precious');
    expect(kindOf(() => create())).toBe('usage');
    expect(kindOf(() => create('qed', { options: new Map([['colour', 'red']]) }))).toBe('usage');
    expect(readFileSync(image, 'utf8')).toBe('precious');
  });

  test('takes the size of the backing file, and stores its name as given', () => {
    writeFileSync(join(folder, 'base.raw'), Buffer.alloc(66_048, 7));
    create('qed', { size: undefined, backing: 'base.raw', backingFormat: 'raw' });
    expect(inspectDisk(image)).toMatchObject({
      virtualSize: 66_048,
      backingFilename: 'base.raw',
      fullBackingFilename: join(folder, 'base.raw'),
      backingFormat: 'raw',
    });
  });
});

describe('".." in a backing name behind a directory that is a symbolic link', () => {
  const MEBIBYTE = 1024 * 1024;
  const lengths = { 'base.raw': MEBIBYTE, 'real/base.raw': 8 * MEBIBYTE, 'links/base.raw': 2 * MEBIBYTE } as const;
  let overlay: string;

  beforeEach(() => {
    for (const name of ['real/deep', 'links/deep']) mkdirSync(join(folder, name), { recursive: true });
    symlinkSync('real/deep', join(folder, 'symdir'));
    for (const [name, length] of Object.entries(lengths)) {
      writeFileSync(join(folder, name), '');
      truncateSync(join(folder, name), length);
    }
    overlay = join(folder, 'symdir', 'ov.qed');
    const options = { size: undefined, options: NO_OPTIONS, backing: '../base.raw', backingFormat: 'raw' };
    expect(createDisk(overlay, 'qed', options).virtualSize).toBe(lengths['real/base.raw']);
  });

  /** What info names, and what is opened as the backing file of an image under a name. */
  function backingFilesOf(name: string): string[] {
    const disk = openDisk(name, { readOnly: true, allowBacking: [folder] });
    try {
      return [realpathSync.native(inspectDisk(name).fullBackingFilename!), ...disk.status().backing];
    } finally {
      disk.close();
    }
  }

  test('leads to the parent of what the link points to, for create, info and open', () => {
    const base = join(folder, 'real/base.raw');
    expect(backingFilesOf(overlay)).toEqual([base, base]);
    expect(backingFilesOf(join(folder, 'real/deep/ov.qed'))).toEqual([base, base]);
  });

  test('counts from the directory of the name where the image itself is a link, as for QEMU', () => {
    symlinkSync(overlay, join(folder, 'links/deep/link.qed'));
    const base = join(folder, 'links/base.raw');
    expect(backingFilesOf(join(folder, 'links/deep/link.qed'))).toEqual([base, base]);
  });

  test('leads there from a backing file that is a link, too', () => {
    symlinkSync(overlay, join(folder, 'links/deep/link.qed'));
    writeQed(image, { backing: 'links/deep/link.qed' });
    const disk = openDisk(image, { readOnly: true, allowBacking: [folder] });
    expect(disk.status().backing).toEqual([join(folder, 'real/deep/ov.qed'), join(folder, 'links/base.raw')]);
    disk.close();
  });

  test('in the name of the image itself means what it means to the kernel', () => {
    const name = `${folder}/symdir/../deep/ov.qed`;
    const base = join(folder, 'real/base.raw');
    expect(backingFilesOf(name)).toEqual([base, base]);
  });
});

describe('opening', () => {
  test('probes the content: QED by its magic, everything else is raw', () => {
    create();
    expect(inspectDisk(image).format).toBe('qed');
    expect(inspectDisk(image, { format: 'raw' }).format).toBe('raw');
    for (const head of ['', 'QED', 'QEDx', 'qed\0']) {
      expect(formatOf(new MemoryHostFile(Buffer.from(head)), undefined).name).toBe('raw');
    }
    expect(formatOf(new MemoryHostFile(Buffer.from('QED\0')), undefined).name).toBe('qed');
    expect(formats.at(-1)?.name).toBe('raw');
    expect(() => formatByName('vhdx2')).toThrow(/known are .*qed.*raw/);
  });

  test('a guessed raw image refuses a foreign magic in its first sector, a named one does not', () => {
    writeFileSync(image, Buffer.alloc(8192));
    const guessed = openDisk(image, { readOnly: false });
    expect(kindOf(() => guessed.write(Buffer.from('QED\0'), 0, 4, guestOffset(0)))).toBe('permission');
    guessed.write(Buffer.from('QE'), 0, 2, guestOffset(0));
    expect(kindOf(() => guessed.write(Buffer.from('D\0'), 0, 2, guestOffset(2)))).toBe('permission');
    guessed.write(Buffer.from('QED\0'), 0, 4, guestOffset(4));
    guessed.close();
    const named = openDisk(image, { readOnly: false, format: 'raw' });
    named.write(Buffer.from('QED\0'), 0, 4, guestOffset(0));
    named.close();
  });

  test('that fails leaves no file open', () => {
    writeQed(image, { backing: 'a.qed' });
    writeQed(join(folder, 'a.qed'), { backing: 'missing', backingIsRaw: true });
    for (const readOnly of [true, false]) expect(kindOf(() => openDisk(image, { readOnly }))).toBe('missing');
    expect(kindOf(() => openDisk(join(folder, 'none'), { readOnly: true }))).toBe('missing');
    expect(openFiles()).toEqual([]);
  });

  test('shows path, format, sizes and the chain in its status', () => {
    writeFileSync(join(folder, 'base.raw'), Buffer.alloc(65_536, 7));
    create('qed', { backing: 'base.raw', backingFormat: 'raw' });
    const disk = openDisk(image, { readOnly: false });
    disk.write(Buffer.of(1), 0, 1, guestOffset(500_000));
    expect(disk.status()).toEqual({
      path: image,
      format: 'qed',
      virtualSize: 1024 * 1024,
      clusterSize: 65_536,
      readOnly: false,
      dirty: true,
      failure: null,
      allocatedBytes: 65_536,
      backing: [join(folder, 'base.raw')],
      dataFile: null,
      isBackingWritable: true,
      lazyRefcounts: null,
      copyOnRead: null,
      share: { local: 983_040, below: 65_536 },
      network: [],
    });
    expect(disk.extent(0)).toMatchObject({ depth: 1, status: 'data', path: join(folder, 'base.raw') });
    expect(disk.extent(65_536)).toMatchObject({ depth: 0, status: 'unallocated', path: image });
    disk.close();
    expect(openFiles()).toEqual([]);
  });
});

test('an attached disk sees and makes the same changes', () => {
  create();
  const disk = openDisk(image, { readOnly: false, slots: 2 });
  const other = attachDisk(structuredClone(disk.share()), 1);
  const target = Buffer.alloc(4);
  disk.write(Buffer.from('abcd'), 0, 4, guestOffset(300_000));
  other.read(target, 0, 4, guestOffset(300_000));
  expect(target.toString()).toBe('abcd');
  other.write(Buffer.from('efgh'), 0, 4, guestOffset(300_002));
  disk.read(target, 0, 4, guestOffset(300_002));
  expect(target.toString()).toBe('efgh');
  other.resize(2 * 1024 * 1024);
  expect(disk.size()).toBe(2 * 1024 * 1024);
  disk.close();
  expect(checkDisk(image, { repair: 'none', log: () => undefined })).toMatchObject({ corruptions: 0, leaks: 0 });
});

test('checking a raw image is unsupported, and a check gives its file back', () => {
  create('raw');
  expect(kindOf(() => checkDisk(image, { repair: 'none', log: () => undefined }))).toBe('unsupported');
  expect(existsSync(image)).toBe(true);
  expect(openFiles()).toEqual([]);
});
