// Descriptors come from anybody, and so do the names in them. Each of these is refused with a clear error, or read as it is meant; no
// file changes, nothing outside the image's own directory is opened, and every file is closed again.

import { execFileSync, spawnSync } from 'node:child_process';
import { linkSync, mkdirSync, readdirSync, readFileSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { guestOffset } from '../../src/bytes/offsets.ts';
import { checkDisk, createDisk, inspectDisk, openDisk } from '../../src/disk/index.ts';
import { ERRNO, errnoOf, ImgfuseError } from '../../src/errors/index.ts';
import { CLI, fingerprints, imgfuse, isBuilt, readAll, withDisk } from '../support/image-files.ts';
import { requireOrSkip } from '../support/requirements.ts';
import { makeTemporaryDirectory, removeTemporaryDirectory } from '../support/temporary.ts';
import { sparseBytes } from '../support/vmdk-bytes.ts';
import { type DescriptorText, descriptorText } from '../support/vmdk-text.ts';

let folder: string;
let image: string;
let outside: string;
beforeEach(() => {
  folder = makeTemporaryDirectory();
  outside = makeTemporaryDirectory();
  image = join(folder, 'disk.vmdk');
  flat('a-flat.vmdk', 1);
  flat('b-flat.vmdk', 2);
});
afterEach(() => {
  removeTemporaryDirectory(folder);
  removeTemporaryDirectory(outside);
});

/** A file of 4 KiB that is full of one byte. */
function flat(name: string, byte: number, directory = folder): string {
  const path = join(directory, name);
  writeFileSync(path, Buffer.alloc(4096, byte));
  return path;
}

function write(parts: DescriptorText | string): void {
  writeFileSync(image, typeof parts === 'string' ? parts : descriptorText(parts));
}

function extent(name: string, kind = 'FLAT'): string {
  return `RW 8 ${kind} "${name}"${kind === 'FLAT' ? ' 0' : ''}`;
}

function openDescriptors(): string[] {
  return readdirSync('/proc/self/fd').length === 0
    ? []
    : execFileSync('ls', ['-l', '/proc/self/fd'], { encoding: 'utf8' })
        .split('\n')
        .filter((line) => line.includes(folder));
}

/** What every way to open says. */
function refusal(options: { readonly allowBacking?: readonly string[] } = {}): string {
  const before = fingerprints(folder);
  const sentences = [true, false].map((readOnly) => {
    try {
      openDisk(image, { readOnly, ...options }).close();
    } catch (error) {
      expect(error).toBeInstanceOf(ImgfuseError);
      return (error as Error).message;
    }
    return 'it was opened';
  });
  expect(fingerprints(folder)).toEqual(before);
  expect(openDescriptors()).toEqual([]);
  expect(sentences[0]).toBe(sentences[1]);
  return sentences[0]!;
}

describe('a name of an extent', () => {
  test.each([
    ['an absolute path', () => flat('x-flat.vmdk', 9, outside)],
    ['a way up', () => `../${flat('x-flat.vmdk', 9, outside).split('/').slice(-2).join('/')}`],
    [
      'a symbolic link',
      () => {
        symlinkSync(flat('x-flat.vmdk', 9, outside), join(folder, 'link.vmdk'));
        return 'link.vmdk';
      },
    ],
  ])('that leads out of the directory by %s is refused unless the user allows that place', (_, make) => {
    write({ extents: [extent(make())] });
    expect(refusal()).toMatch(/its extent .* lies outside the image's own directory; add --allow-backing/);
    expect(refusal({ allowBacking: [outside] })).toBe('it was opened');
  });

  test.each([
    ['/etc/passwd', /outside the image's own directory/],
    ['/dev/null', /outside the image's own directory/],
    ['nowhere.vmdk', /does not exist; put it back/],
    ['.', /no regular file|outside/],
    ['https://example.org/x', /no plain file/],
    ['nbd:localhost:10809', /no plain file/],
    ['json:{}', /no plain file/],
    ['fat:rw:.', /no plain file/],
    [`${'n'.repeat(5000)}`, /no file name/],
  ])('%s is refused', (name, sentence) => {
    write({ extents: [extent(name)] });
    expect(refusal()).toMatch(sentence);
  });

  test('of a device or a pipe in the directory is refused, and the pipe is not waited for', () => {
    execFileSync('mkfifo', [join(folder, 'pipe')]);
    write({ extents: [extent('pipe')] });
    expect(refusal()).toMatch(/is no regular file, and nothing else is opened/);
    symlinkSync('/dev/zero', join(folder, 'zero'));
    write({ extents: [extent('zero')] });
    expect(refusal({ allowBacking: ['/dev'] })).toMatch(/is no regular file/);
  });

  test('of the descriptor itself, or of one file under two names, is refused as a loop', () => {
    for (const kind of ['FLAT', 'SPARSE', 'VMFSSPARSE', 'SESPARSE']) {
      write({ extents: [extent('disk.vmdk', kind)] });
      expect(refusal()).toMatch(/that is a loop/);
    }
    linkSync(join(folder, 'a-flat.vmdk'), join(folder, 'hard.vmdk'));
    write({ extents: [extent('a-flat.vmdk'), extent('hard.vmdk')] });
    expect(refusal()).toMatch(/that is a loop/);
  });

  test('twice is refused where the bytes are the same, and otherwise is one file', () => {
    write({ extents: [extent('a-flat.vmdk'), extent('a-flat.vmdk')] });
    expect(refusal()).toMatch(/names the extent a-flat.vmdk twice/);
    write({ extents: ['RW 4 FLAT "a-flat.vmdk" 4', 'RW 4 FLAT "a-flat.vmdk" 0'] });
    withDisk(image, { readOnly: false }, (disk) => disk.write(Buffer.alloc(512, 7), 0, 512, guestOffset(0)));
    const bytes = readFileSync(join(folder, 'a-flat.vmdk'));
    expect([bytes[2047], bytes[2048], bytes[2559], bytes[2560]]).toEqual([1, 7, 7, 1]);
  });

  test('of a descriptor is refused: an image in an image is a parent', () => {
    writeFileSync(join(folder, 'other.vmdk'), descriptorText({ extents: [extent('a-flat.vmdk')] }));
    write({ extents: [extent('other.vmdk', 'SPARSE')] });
    expect(refusal()).toMatch(/other.vmdk has no tables, as the descriptor says|does not begin like one/);
  });
});

describe('a text', () => {
  test('with every line twice is refused, whatever the line', () => {
    const lines = descriptorText({ extents: [extent('a-flat.vmdk')] }).split('\n');
    write(lines.flatMap((line) => [line, line]).join('\n'));
    expect(refusal()).toMatch(/names the extent a-flat.vmdk twice/);
  });

  test('of 1 MiB of junk, or with a count that is wrong, is refused', () => {
    write(`# Disk DescriptorFile\n${'junk = 1 '.repeat(2 ** 20 / 9 - 5)}`);
    expect(refusal()).toMatch(/names no extent/);
    write(`# Disk DescriptorFile\n${'\n'.repeat(2 ** 20)}`);
    expect(refusal()).toMatch(/a descriptor of 1048598 bytes/);
    for (const line of [
      'RW 0 FLAT "a-flat.vmdk" 0',
      'RW 99999999999999999999 FLAT "a-flat.vmdk" 0',
      'RW 8 FLAT "a-flat.vmdk" -1',
    ]) {
      write({ extents: [line] });
      expect(refusal()).toMatch(/no sectors|no extent that is opened/);
    }
  });

  const line = extent('a-flat.vmdk');
  test.each<readonly [string, DescriptorText | string, RegExp]>([
    ['with two CIDs', { extents: [line], lines: ['CID=00000001'] }, /says cid twice/],
    ['without a CID', descriptorText({ extents: [line] }).replace(/^CID.*$/m, ''), /has no CID/],
    ['with a CID that is no number', { extents: [line], cid: '0x1a2b3c' }, /its cid is '0x1a2b3c'/],
    ['with a CID of nine digits', { extents: [line], cid: '11a2b3c4d' }, /its cid is '11a2b3c4d'/],
    ['of a version that nobody knows', { extents: [line], lines: ['version=99'] }, /says version twice/],
    [
      'with an extent that only VMware reads',
      { extents: ['RW 8 VMFSRDM "a-flat.vmdk"'] },
      /a store that only VMware reads/,
    ],
    ['with an access that nobody knows', { extents: ['WO 8 FLAT "a-flat.vmdk" 0'] }, /names no extent/],
    ['with a name that does not end', { extents: ['RW 8 FLAT "a-flat.vmdk 0'] }, /no extent that is opened/],
    ['with an extent that has no name', { extents: ['RW 8 FLAT'] }, /names no file/],
    [
      'with an extent of tables that begins inside its file',
      { extents: ['RW 8 SPARSE "a-flat.vmdk" 1'] },
      /and has tables/,
    ],
    ['with sectors beyond all sizes', { extents: ['RW 9999999999999999 FLAT "a-flat.vmdk" 0'] }, /beyond the sizes/],
    ['with an offset beyond all sizes', { extents: ['RW 8 FLAT "a-flat.vmdk" 9999999999999999'] }, /beyond the sizes/],
    [
      'whose extents together are beyond all sizes',
      { extents: Array.from({ length: 5 }, () => `RW ${2 ** 42} ZERO`) },
      /more than can be opened/,
    ],
    ['of 4097 extents', { extents: Array.from({ length: 4097 }, () => 'RW 8 ZERO') }, /more than 4096 extents/],
    [
      'that ends before its extents',
      descriptorText({ extents: [line] }).replace('# Extent', '\0# Extent'),
      /names no extent/,
    ],
    [
      'whose extents overlap in their file',
      { extents: ['RW 4 FLAT "a-flat.vmdk" 0', 'RW 4 FLAT "a-flat.vmdk" 3'] },
      /names the extent a-flat.vmdk twice/,
    ],
    [
      'whose extents with tables are one file',
      { extents: [extent('a-flat.vmdk', 'SPARSE'), extent('a-flat.vmdk', 'SPARSE')] },
      /names the extent a-flat.vmdk twice/,
    ],
    ['whose extent is flat and has tables', { extents: [line, extent('a-flat.vmdk', 'SPARSE')] }, /twice/],
    [
      'whose parent is the image itself',
      { extents: [line], parentCid: '1a2b3c4d', lines: ['parentFileNameHint="disk.vmdk"'] },
      /its own backing chain|loop/,
    ],
    [
      'whose parent is its extent',
      { extents: [line], parentCid: '1a2b3c4d', lines: ['parentFileNameHint="a-flat.vmdk"'] },
      /that is a loop/,
    ],
    [
      'whose parent lies elsewhere',
      { extents: [line], parentCid: '1a2b3c4d', lines: ['parentFileNameHint="/etc/passwd"'] },
      /outside the image's own directory/,
    ],
    ['whose parent has no name', { extents: [line], parentCid: '1a2b3c4d' }, /no parentFileNameHint says where/],
  ])('%s is refused', (_, text, words) => {
    write(text);
    expect(refusal()).toMatch(words);
  });

  test('in an extent, of other extents, is refused', () => {
    const lines = [`RW 8 SPARSE "disk.vmdk"`, extent('a-flat.vmdk')];
    writeFileSync(image, sparseBytes({ entries: [0], descriptor: descriptorText({ extents: lines }) }));
    expect(refusal()).toMatch(/a descriptor of 2 extents in itself/);
  });

  test('in an extent goes by that extent, whatever name and sectors it says', () => {
    const text = descriptorText({ extents: ['RW 9999 SPARSE "/etc/passwd"'] });
    writeFileSync(image, sparseBytes({ entries: [0, 1], descriptor: text }));
    const disk = withDisk(image, { readOnly: true }, readAll);
    expect(disk).toEqual(Buffer.concat([Buffer.alloc(4096, 1), Buffer.alloc(4096, 2)]));
  });

  test('with lines of Windows is read and written', () => {
    write({ extents: [extent('a-flat.vmdk')], newline: '\r\n' });
    withDisk(image, { readOnly: false }, (disk) => disk.write(Buffer.alloc(512, 7), 0, 512, guestOffset(0)));
    expect(withDisk(image, { readOnly: true }, readAll)).toEqual(Buffer.alloc(4096, 1).fill(7, 0, 512));
    const text = readFileSync(image, 'latin1');
    expect(text.replace(/CID=\w{8}\r/, '')).toBe(
      descriptorText({ extents: [extent('a-flat.vmdk')], newline: '\r\n' }).replace(/CID=\w{8}\r/, ''),
    );
    expect(text).not.toContain('CID=1a2b3c4d');
  });

  test('of an extent that is longer than its file is read with zeros, and not written', () => {
    truncateSync(join(folder, 'a-flat.vmdk'), 1000);
    write({ extents: [extent('a-flat.vmdk'), extent('b-flat.vmdk')] });
    const said: string[] = [];
    const bytes = withDisk(image, { readOnly: true, log: (text) => said.push(text) }, readAll);
    expect(bytes).toEqual(Buffer.concat([Buffer.alloc(1000, 1), Buffer.alloc(3096), Buffer.alloc(4096, 2)]));
    expect(said.join()).toMatch(/a-flat.vmdk is truncated: its last 3096 bytes are missing/);
    expect(() => openDisk(image, { readOnly: false })).toThrow(/too short by 3096 bytes; mount with -o ro/);
    write({ extents: [extent('a-flat.vmdk').replace('RW', 'RDONLY'), extent('b-flat.vmdk')] });
    expect(() => openDisk(image, { readOnly: false })).toThrow(/too short by 3096 bytes; mount with -o ro/);
    write({ extents: [extent('a-flat.vmdk'), extent('b-flat.vmdk')] });
    const findings: string[] = [];
    const check = (repair: 'none' | 'all') => checkDisk(image, { repair, log: (text) => findings.push(text) });
    expect(check('none')).toMatchObject({ corruptions: 1, corruptionsFixed: 0 });
    expect(findings).toEqual([expect.stringContaining('is too short by 3096 bytes')]);
    expect(check('all')).toMatchObject({ corruptions: 1, corruptionsFixed: 1 });
    expect(check('none')).toMatchObject({ corruptions: 0 });
  });
});

describe('extents', () => {
  const mixed = [
    extent('a-flat.vmdk'),
    'RW 8 ZERO',
    'RDONLY 8 FLAT "b-flat.vmdk" 0',
    'NOACCESS 8 FLAT "secret-flat.vmdk" 0',
    'RW 8 ZERO',
  ];

  test('that are read-only, zeros or closed keep their places', () => {
    write({ extents: mixed });
    withDisk(image, { readOnly: false }, (disk) => {
      expect(disk.size()).toBe(5 * 4096);
      const bytes = Buffer.alloc(3 * 4096, 9);
      disk.read(bytes, 0, bytes.length, guestOffset(0));
      expect(bytes).toEqual(Buffer.concat([Buffer.alloc(4096, 1), Buffer.alloc(4096), Buffer.alloc(4096, 2)]));
      expect(() => disk.read(bytes, 0, 512, guestOffset(3 * 4096))).toThrow(/says NOACCESS/);
      disk.read(bytes, 0, 4096, guestOffset(4 * 4096));
      expect(bytes.subarray(0, 4096)).toEqual(Buffer.alloc(4096));
      // a write that one extent does not take changes none
      for (const at of [4096 - 512, 4096, 2 * 4096, 3 * 4096]) {
        expect(() => disk.write(Buffer.alloc(1024, 5), 0, 1024, guestOffset(at))).toThrow(/never written/);
      }
      disk.discard(4096, 4096);
      disk.write(Buffer.alloc(512, 5), 0, 512, guestOffset(0));
    });
    expect(readFileSync(join(folder, 'a-flat.vmdk'))).toEqual(Buffer.alloc(4096, 1).fill(5, 0, 512));
    expect(readFileSync(join(folder, 'b-flat.vmdk'))).toEqual(Buffer.alloc(4096, 2));
  });

  test('are all closed if one of them cannot be opened', () => {
    write({ extents: [extent('a-flat.vmdk'), extent('b-flat.vmdk'), extent('nowhere.vmdk')] });
    expect(refusal()).toMatch(/nowhere.vmdk .*does not exist/);
  });

  test('that info cannot look at are told in one sentence for each reason', () => {
    const names = Array.from({ length: 500 }, (_, i) => extent(`gone-${i}.vmdk`));
    mkdirSync(join(folder, 'directory.vmdk'));
    write({ extents: [extent('a-flat.vmdk'), ...names, extent('directory.vmdk')] });
    const sentences: string[] = [];
    expect(inspectDisk(image, { log: (sentence) => sentences.push(sentence) }).virtualSize).toBe(502 * 4096);
    expect(sentences).toEqual([
      expect.stringMatching(
        /^the extent .*gone-0\.vmdk of .* does not exist; .*; so it is with 499 other extents of .*disk\.vmdk$/,
      ),
      expect.stringMatching(
        /directory\.vmdk is no regular file[^;]*; put a regular file with its content in its place$/,
      ),
    ]);
  });

  test('of which more are open than the process may have are told in one sentence', (context) => {
    requireOrSkip(context, isBuilt(), 'the built command line');
    const names = Array.from({ length: 200 }, (_, i) => `x${i}-flat.vmdk`);
    for (const name of names) flat(name, 1);
    write({ extents: names.map((name) => extent(name)) });
    const { stderr } = spawnSync('sh', ['-c', 'ulimit -n 128; exec "$@"', 'sh', process.execPath, CLI, 'info', image], {
      encoding: 'utf8',
    });
    expect(stderr).toMatch(/^imgfuse: .* cannot be opened: .*\(ulimit -n\); so it is with \d+ other extents of .*\n$/);
  });

  test('of a disk that is open here are locked one by one', () => {
    write({ extents: [extent('a-flat.vmdk')] });
    const other = join(folder, 'other.vmdk');
    writeFileSync(other, descriptorText({ extents: [extent('a-flat.vmdk')] }));
    withDisk(image, { readOnly: false }, () => {
      let caught: unknown;
      try {
        openDisk(other, { readOnly: true });
      } catch (error) {
        caught = error;
      }
      expect(errnoOf(caught)).toBe(ERRNO.EBUSY);
      expect((caught as Error).message).toContain('a-flat.vmdk is in use by');
    });
  });
});

test('one extent of an image is not shown as a disk', () => {
  createDisk(image, 'vmdk', { size: 2 ** 20, options: new Map([['subformat', 'twoGbMaxExtentSparse']]) });
  const part = join(folder, 'disk-s001.vmdk');
  for (const action of [() => openDisk(part, { readOnly: true }), () => inspectDisk(part)]) {
    expect(action).toThrow(/is one extent of an image, .*; open the small text file that names it/);
  }
});

test('check opens extents where the user allows it', (context) => {
  requireOrSkip(context, isBuilt(), 'the built command line');
  write({ extents: [extent(flat('x-flat.vmdk', 9, outside))] });
  mkdirSync(join(folder, 'below'));
  expect(imgfuse('check', image)).toMatchObject({ code: 1 });
  expect(imgfuse('check', '--allow-backing', outside, image)).toMatchObject({ code: 0, stderr: '' });
});
