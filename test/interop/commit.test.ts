// imgfuse commit with QEMU as the judge: what an overlay has is in its base afterwards, for every pair of formats, sizes and
// features; QEMU commits the same overlay to the same disk. What cannot be committed is refused by name and stays as it is.

import { copyFileSync, mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { guestOffset } from '../../src/bytes/offsets.ts';
import { type CommitDiskOptions, type CommitResult, checkDisk, createDisk, openCommit } from '../../src/disk/index.ts';
import { bochsImage, MIXED_SECTORS } from '../support/bochs-bytes.ts';
import { fingerprints, firstDifference, readAll, withDisk } from '../support/image-files.ts';
import { hasQemu, QemuHolder, qemuCheck, qemuImg, qemuIo, tryQemu } from '../support/qemu.ts';
import { RangeServer } from '../support/range-server.ts';
import { requireOrSkip } from '../support/requirements.ts';
import { makeTemporaryDirectory, removeTemporaryDirectory } from '../support/temporary.ts';

let folder = '';
beforeEach((context) => {
  requireOrSkip(context, hasQemu, 'qemu-img and qemu-io');
  folder = makeTemporaryDirectory();
});
afterEach(() => {
  if (folder !== '') removeTemporaryDirectory(folder);
});

function path(name: string): string {
  return join(folder, name);
}

/** A whole commit. */
function commit(overlay: string, options: Partial<CommitDiskOptions> = {}): CommitResult {
  const opened = openCommit(overlay, { isKept: false, ...options });
  try {
    for (;;) {
      const step = opened.work.next();
      if (step.done === true) return step.value;
    }
  } finally {
    opened.close();
  }
}

function refusal(overlay: string, options: Partial<CommitDiskOptions> = {}): string {
  try {
    commit(overlay, options);
  } catch (error) {
    return (error as Error).message;
  }
  throw new Error(`${overlay} was committed`);
}

function create(format: string, name: string, size: string, options = '', ...more: readonly string[]): string {
  qemuImg('create', '-q', '-f', format, ...(options === '' ? [] : ['-o', options]), ...more, path(name), size);
  return path(name);
}

function expectSound(image: string, format: string): void {
  if (format === 'vpc') {
    const { corruptions, leaks } = checkDisk(image, { repair: 'none', log: () => undefined });
    expect({ corruptions, leaks }).toEqual({ corruptions: 0, leaks: 0 });
  } else if (format !== 'raw') qemuCheck(image, format);
}

const MIB = 1024 * 1024;
/** [format, options of create]; the second size of a pair is that of the overlay */
const BASES = [
  ['raw', ''],
  ['qed', 'cluster_size=4k,table_size=2'],
  ['qcow2', ''],
  ['qcow2', 'cluster_size=512,compat=0.10'],
  ['qcow2', 'cluster_size=16k,extended_l2=on'],
  ['qcow2', 'lazy_refcounts=on'],
  ['vpc', 'force_size=on'],
  ['vdi', ''],
  ['vpc', 'force_size=on,subformat=fixed'],
  ['vdi', 'static=on'],
  ['vmdk', ''],
  ['vhdx', 'block_size=1M'],
  ['parallels', 'cluster_size=64k'],
] as const;
/** QEMU cannot make these larger. */
const FIXED_IN_QEMU: readonly string[] = ['vdi', 'vpc', 'vmdk', 'vhdx'];
const OVERLAYS = [
  ['qed', ''],
  ['qcow2', ''],
  ['qcow2', 'cluster_size=4k,compat=0.10'],
  ['qcow2', 'cluster_size=64k,extended_l2=on'],
] as const;
const SIZES = [
  ['3M', '3M'],
  ['1537k', '3M'],
  ['4M', '2560k'],
] as const;
/** Every base and every overlay, with half of the others each. */
const PAIRS = BASES.flatMap((base, b) =>
  OVERLAYS.map((overlay, o) => ({ base, overlay, sizes: SIZES[(b + o) % SIZES.length]! })).filter(
    (_, o) => (b + o) % 2 === 0,
  ),
);

describe.each(PAIRS)('$overlay over $base, $sizes', ({ base, overlay, sizes }) => {
  const [baseFormat, baseOptions] = base;
  const [format, options] = overlay;

  beforeEach(() => {
    create(baseFormat, 'base', sizes[0], baseOptions);
    qemuIo(path('base'), baseFormat, 'write -P 1 0 900k', 'write -P 2 1M 300k');
    create(format, 'overlay', sizes[1], options, '-b', path('base'), '-F', baseFormat);
    const changes = [
      'write -P 3 100k 33k',
      'write -P 4 513k 1',
      'write -z 640k 128k',
      'write -P 5 1500k 200k',
      'write -P 6 2500k 60k',
    ];
    qemuIo(path('overlay'), format, ...changes);
    qemuImg('convert', '-f', format, '-O', 'raw', path('overlay'), path('expected'));
    for (const name of ['base', 'overlay']) copyFileSync(path(name), path(`${name}.before`));
  });

  function judge(): void {
    qemuImg('compare', '-f', 'raw', '-F', format, path('expected'), path('overlay'));
    // the base may be longer than its overlay
    const whole = readFileSync(path('expected'));
    qemuImg('convert', '-f', baseFormat, '-O', 'raw', path('base'), path('alone'));
    const alone = readFileSync(path('alone'));
    expect(alone.length).toBeGreaterThanOrEqual(whole.length);
    expect(Buffer.compare(alone.subarray(0, whole.length), whole)).toBe(0);
    for (const [name, of] of [
      ['overlay', format],
      ['base', baseFormat],
    ] as const) {
      expectSound(path(name), of);
    }
  }

  /** A commit of QEMU's, if it can write to the base and make it long enough. */
  function judgeQemu(): void {
    // which it opens read-only first, and cannot open again
    if (baseFormat === 'parallels') return;
    if (FIXED_IN_QEMU.includes(baseFormat) && sizes[0] === '1537k') return;
    qemuImg('commit', '-q', '-f', format, path('overlay'));
    judge();
  }

  test('is the disk of the base afterwards, and empty, as when QEMU commits it', () => {
    const { dataBytes, grownFrom } = commit(path('overlay'));
    expect(dataBytes).toBeGreaterThan(200 * 1024);
    expect(grownFrom).toBe(sizes[0] === '1537k' ? 1537 * 1024 : undefined);
    judge();
    const map = JSON.parse(qemuImg('map', '--output=json', '-f', format, path('overlay'))) as {
      depth: number;
      data: boolean;
    }[];
    expect(map.filter(({ depth, data }) => depth === 0 && data)).toEqual([]);
    // it is an overlay like any other again
    qemuIo(path('overlay'), format, 'write -P 9 0 64k', 'read -P 9 0 64k');
    expect(commit(path('overlay'))).not.toHaveProperty('grownFrom');
    qemuIo(path('base'), baseFormat, 'read -P 9 0 64k');
    // QEMU, from the same start
    for (const name of ['base', 'overlay']) copyFileSync(path(`${name}.before`), path(name));
    judgeQemu();
  });

  test('stays as it is with -d, and can be committed by QEMU then', () => {
    const before = readFileSync(path('overlay'));
    commit(path('overlay'), { isKept: true });
    judge();
    expect(Buffer.compare(readFileSync(path('overlay')), before)).toBe(0);
    judgeQemu();
  });

  test('is whole again after a commit that was left halfway', () => {
    const opened = openCommit(path('overlay'), { isKept: false });
    for (let steps = 0; steps < 3; steps++) opened.work.next();
    opened.close();
    qemuImg('compare', '-f', 'raw', '-F', format, path('expected'), path('overlay'));
    commit(path('overlay'));
    judge();
  });
});

/** QEMU knows no parents of these, so it judges the base. [format, options of the child, size of the base] */
describe.each([
  ['vdi', '', '3M'],
  ['vdi', 'block_size=64k', '1537k'],
  ['vpc', '', '3M'],
  ['vpc', 'block_size=64k', '1537k'],
  ['vhdx', 'block_size=1M', '3M'],
  ['vhdx', '', '1537k'],
])('a differencing %s image with %j over a base of %s', (format, option, baseSize) => {
  test('is the disk of the base afterwards, and empty', () => {
    const base = `base.${format}`;
    create(format, base, baseSize, format === 'vpc' ? 'force_size=on' : '');
    qemuIo(path(base), format, 'write -P 1 0 900k', 'write -P 2 1M 300k');
    const options = new Map(option === '' ? [] : [option.split('=') as [string, string]]);
    createDisk(path('child'), format, { size: 3 * MIB, options, backing: path(base), backingFormat: format });
    const [writable, readOnly] = [{ readOnly: false }, { readOnly: true }];
    const expected = withDisk(path('child'), writable, (disk) => {
      const write = (value: number, at: number, length: number) =>
        disk.write(new Uint8Array(length).fill(value), 0, length, guestOffset(at));
      write(3, 100 * 1024, 33 * 1024);
      write(4, 513 * 1024, 1);
      disk.writeZeroes(640 * 1024, 128 * 1024);
      write(5, 1500 * 1024, 200 * 1024);
      write(6, 2500 * 1024, 60 * 1024);
      return readAll(disk);
    });
    expect([0, 100, 513, 700, 1100, 1600, 2550].map((kib) => expected[kib * 1024])).toEqual([1, 3, 4, 0, 2, 5, 6]);
    commit(path('child'));
    qemuImg('convert', '-f', format, '-O', 'raw', path(base), path('alone'));
    expect(firstDifference(readFileSync(path('alone')), expected)).toBe('none');
    expect(firstDifference(withDisk(path('child'), readOnly, readAll), expected)).toBe('none');
    expectSound(path(base), format);
    expect(withDisk(path('child'), readOnly, (disk) => [...disk.extents()].some(({ depth }) => depth === 0))).toBe(
      false,
    );
    // it is a child like any other again
    withDisk(path('child'), writable, (disk) => disk.write(new Uint8Array(65536).fill(9), 0, 65536, guestOffset(0)));
    commit(path('child'));
    qemuIo(path(base), format, 'read -P 9 0 64k');
    expectSound(path(base), format);
  });
});

describe('an overlay', () => {
  test('with compressed clusters, an encrypted one, one with a data file, and into bases of these kinds', () => {
    writeFileSync(path('key'), 'secret');
    const secret = ['--object', `secret,id=s,file=${path('key')}`];
    const luks = 'encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10';
    const encrypted = (name: string) => `driver=qcow2,file.filename=${path(name)},encrypt.key-secret=s`;
    const password = () => new TextEncoder().encode('secret');
    // compressed into compressed
    writeFileSync(path('plain'), Buffer.alloc(MIB, 'text that can be compressed '));
    qemuImg('convert', '-c', '-f', 'raw', '-O', 'qcow2', path('plain'), path('zip'));
    create('qcow2', 'zip.o', '1M', '', '-b', path('zip'), '-F', 'qcow2');
    writeFileSync(path('other'), Buffer.alloc(512 * 1024, 'another text'));
    qemuIo(path('zip.o'), 'qcow2', `write -c -s ${path('other')} 64k 128k`, 'write -P 8 512k 3k');
    qemuImg('convert', '-O', 'raw', path('zip.o'), path('expected'));
    commit(path('zip.o'));
    qemuImg('compare', path('expected'), path('zip'));
    qemuCheck(path('zip'), 'qcow2');
    qemuCheck(path('zip.o'), 'qcow2');
    // encrypted into encrypted
    qemuImg('create', '-q', ...secret, '-f', 'qcow2', '-o', luks, path('luks'), '1M');
    const over = ['-b', path('luks'), '-F', 'qcow2'];
    // an encrypted base is named by its secret in QEMU, so the overlay is made here
    qemuImg('create', '-q', '-u', ...secret, '-f', 'qcow2', '-o', luks, ...over, path('luks.o'), '1M');
    const overlay = [
      '--image-opts',
      `${encrypted('luks.o')},backing.driver=qcow2,backing.file.filename=${path('luks')},backing.encrypt.key-secret=s`,
    ];
    expect(tryQemu('qemu-io', ...secret, ...overlay, '-c', 'write -P 6 100k 200k').code).toBe(0);
    expect(refusal(path('luks.o'))).toMatch(/is encrypted and no password is given/);
    commit(path('luks.o'), { password });
    const { output } = tryQemu('qemu-io', ...secret, '--image-opts', encrypted('luks'), '-c', 'read -P 6 100k 200k');
    expect(output).not.toMatch(/mismatch|error/i);
    // data files on both sides
    create('qcow2', 'data', '1M', `data_file=${path('data.raw')},data_file_raw=on`);
    create('qcow2', 'data.o', '1M', `data_file=${path('data.o.raw')}`, '-b', path('data'), '-F', 'qcow2');
    qemuIo(path('data.o'), 'qcow2', 'write -P 7 10k 300k', 'write -z 640k 64k');
    commit(path('data.o'));
    expect(
      readFileSync(path('data.raw'))
        .subarray(10 * 1024, 310 * 1024)
        .every((byte) => byte === 7),
    ).toBe(true);
    qemuCheck(path('data.o'), 'qcow2');
    qemuIo(path('data.o'), 'qcow2', 'read -P 7 10k 300k');
    expect(statSync(path('data.o.raw')).blocks).toBe(0);
  });

  test('with snapshots, over a base with snapshots, keeps both', () => {
    create('qcow2', 'base', '2M');
    qemuIo(path('base'), 'qcow2', 'write -P 1 0 1M');
    qemuImg('snapshot', '-c', 'below', path('base'));
    create('qcow2', 'overlay', '2M', '', '-b', path('base'), '-F', 'qcow2');
    qemuIo(path('overlay'), 'qcow2', 'write -P 2 512k 1M');
    qemuImg('snapshot', '-c', 'above', path('overlay'));
    qemuIo(path('overlay'), 'qcow2', 'write -P 3 768k 64k');
    commit(path('overlay'));
    for (const name of ['base', 'overlay']) qemuCheck(path(name), 'qcow2');
    qemuIo(path('base'), 'qcow2', 'read -P 1 0 512k', 'read -P 2 512k 256k', 'read -P 3 768k 64k');
    qemuIo(path('overlay'), 'qcow2', 'read -P 3 768k 64k');
    qemuImg('snapshot', '-a', 'below', path('base'));
    qemuIo(path('base'), 'qcow2', 'read -P 1 0 1M', 'read -P 0 1M 1M');
    qemuImg('snapshot', '-a', 'above', path('overlay'));
    qemuIo(path('overlay'), 'qcow2', 'read -P 2 512k 1M');
  });

  test('that was not closed clean is repaired first, and with -d refused', () => {
    create('qcow2', 'base', '1M', 'lazy_refcounts=on');
    create('qcow2', 'overlay', '1M', 'lazy_refcounts=on', '-b', path('base'), '-F', 'qcow2');
    for (const name of ['base', 'overlay']) {
      tryQemu(
        'qemu-io',
        '-f',
        'qcow2',
        '-c',
        `write -P ${name.length} 0 64k`,
        '-c',
        'flush',
        '-c',
        'sigraise 9',
        path(name),
      );
      expect(JSON.parse(qemuImg('info', '-U', '--output=json', path(name)))).toMatchObject({ 'dirty-flag': true });
    }
    expect(refusal(path('overlay'), { isKept: true })).toMatch(/was not closed clean.*imgfuse check -r all/);
    commit(path('overlay'));
    qemuIo(path('base'), 'qcow2', 'read -P 7 0 64k');
    for (const name of ['base', 'overlay']) qemuCheck(path(name), 'qcow2');
  });

  test('is committed down a chain, past images that are larger and smaller, and stays as it is then', () => {
    create('raw', 'base', '4M');
    qemuIo(path('base'), 'raw', 'write -P 1 0 4M');
    create('qed', 'middle', '2M', '', '-b', path('base'), '-F', 'raw');
    qemuIo(path('middle'), 'qed', 'write -P 2 512k 512k');
    create('qcow2', 'top', '3M', '', '-b', path('middle'), '-F', 'qed');
    qemuIo(path('top'), 'qcow2', 'write -P 3 768k 512k');
    qemuImg('convert', '-O', 'raw', path('top'), path('expected'));
    const before = readFileSync(path('top'));
    expect(refusal(path('top'), { base: path('nowhere') })).toMatch(/has no .*nowhere in its backing chain/);
    expect(refusal(path('top'), { base: path('top') })).toMatch(/has no .*top in its backing chain/);
    commit(path('top'), { base: path('base') });
    expect(Buffer.compare(readFileSync(path('top')), before)).toBe(0);
    expect(Buffer.compare(readFileSync(path('base')).subarray(0, 3 * MIB), readFileSync(path('expected')))).toBe(0);
    // beyond the end of the overlay nothing changes
    qemuIo(path('base'), 'raw', 'read -P 0 2M 1M', 'read -P 1 3M 1M');
    qemuImg('compare', '-f', 'raw', '-F', 'qcow2', path('expected'), path('top'));
  });
});

describe('what cannot be committed', () => {
  test('is refused by name, and no byte of it changes', async () => {
    writeFileSync(path('disk.bochs'), bochsImage({ sectors: MIXED_SECTORS }).image);
    create('raw', 'base', '1M');
    create('qcow2', 'over', '1M', '', '-b', path('base'), '-F', 'raw');
    create('qcow2', 'shared', '1M');
    create('qcow2', 'first', '1M', '', '-b', path('shared'), '-F', 'qcow2');
    create('qcow2', 'second', '1M', '', '-b', path('shared'), '-F', 'qcow2');
    create('qcow2', 'deep', '1M', '', '-b', path('over'), '-F', 'qcow2');
    mkdirSync(path('elsewhere'));
    create('raw', 'elsewhere/base', '1M');
    mkdirSync(path('inner'));
    create('qcow2', 'inner/outside', '1M', '', '-b', path('elsewhere/base'), '-F', 'raw');
    create('qcow2', 'lost', '1M', '', '-u', '-b', path('gone'), '-F', 'raw');
    qemuImg('create', '-q', '-f', 'qcow2', '-b', path('disk.bochs'), '-F', 'bochs', path('bochs.o'));
    create('qcow', 'small.qcow', '1M');
    create('qcow2', 'larger', '2M', '', '-b', path('small.qcow'), '-F', 'qcow');
    const server = new RangeServer(readFileSync(path('base')));
    const url = `${server.origin}/base`;
    qemuImg('create', '-q', '-u', '-f', 'qcow2', '-b', url, '-F', 'raw', path('web.o'), '1M');
    const before = fingerprints(folder);
    expect(refusal(path('bochs.o'))).toMatch(/bochs\.o cannot be committed: .*disk\.bochs is a Bochs image.*only read/);
    expect(refusal(path('web.o'), { allowBacking: [url] })).toMatch(
      /is read over HTTP and cannot be changed; copy the disk/,
    );
    expect(refusal(path('base'), { format: 'raw' })).toMatch(/has no backing file.*nothing to commit/);
    expect(refusal(path('lost'))).toMatch(/gone .*does not exist/);
    expect(refusal(path('inner/outside'))).toMatch(/--allow-backing/);
    expect(refusal(path('larger'))).toMatch(
      /has 2097152 bytes and .*small\.qcow 1048576.*keeps its size; copy the disk/,
    );
    expect(refusal(path('none'))).toMatch(/none does not exist/);
    const users: [string, string, RegExp][] = [
      ['second', 'first', /shared is in use by .*qemu-io/],
      ['over', 'over', /over is in use by .*qemu-io/],
      ['deep', 'over', /over is in use by .*qemu-io/],
    ];
    for (const [held, overlay, sentence] of users) {
      const holder = await QemuHolder.open(path(held), ['-r', '-f', 'qcow2'], 'read 0 512');
      try {
        expect(refusal(path(overlay))).toMatch(sentence);
      } finally {
        await holder.close();
      }
    }
    expect(fingerprints(folder)).toEqual(before);
    await server.close();
  });
});
