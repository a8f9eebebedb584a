// Backing file names that attack: files outside the directory, pseudo-protocols, names that are no names, loops, chains
// without end, and things that are no files. Each is refused in one sentence, at once, and no byte of any file changes.

import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { copyFileSync, existsSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { basename, join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { bytesOfName } from '../../src/bytes/names.ts';
import { createDisk, inspectDisk, openDisk } from '../../src/disk/index.ts';
import { ImgfuseError } from '../../src/errors/index.ts';
import { fingerprints, readAll, withDisk } from '../support/image-files.ts';
import { CLUSTER, type QedSpec, writeQed } from '../support/qed-bytes.ts';
import { hasCommand, requireOrSkip } from '../support/requirements.ts';
import { makeTemporaryDirectory, removeTemporaryDirectory } from '../support/temporary.ts';

let folder: string;
let outside: string;
let image: string;

beforeEach(() => {
  folder = makeTemporaryDirectory();
  outside = makeTemporaryDirectory();
  image = join(folder, 'disk.qed');
  writeFileSync(join(outside, 'secret'), Buffer.alloc(8192, 0x55));
});
afterEach(() => {
  removeTemporaryDirectory(folder);
  removeTemporaryDirectory(outside);
});

/** Opens the image both ways and expects the same refusal; returns its sentence. */
function refusal(kind: string): string {
  const messages = [true, false].map((readOnly) => {
    const before = [fingerprints(folder), fingerprints(outside)];
    const start = performance.now();
    let caught: unknown;
    try {
      openDisk(image, { readOnly }).close();
    } catch (error) {
      caught = error;
    }
    // a pipe would make it wait for ever
    expect(performance.now() - start).toBeLessThan(20_000);
    expect(caught).toBeInstanceOf(ImgfuseError);
    const { kind: actual, message } = caught as ImgfuseError;
    expect(`${actual}: ${message}`).toMatch(new RegExp(`^${kind}: `));
    expect(message).not.toContain('\n');
    expect([fingerprints(folder), fingerprints(outside)]).toEqual(before);
    return message;
  });
  expect(messages[0]).toBe(messages[1]);
  return messages[0]!;
}

function rawBacking(backing: string, spec: QedSpec = {}): void {
  writeQed(image, { backing, backingIsRaw: true, ...spec });
}

describe('a backing file outside the directory of the image', () => {
  test.each([
    '/etc/passwd',
    '/etc/hosts',
    '../../../../../../etc/passwd',
    '/proc/self/environ',
  ])('%s is refused with the option that would allow it', (name) => {
    rawBacking(name);
    const message = refusal('permission');
    expect(message).toContain(image);
    expect(message).toContain('--allow-backing');
  });

  test('is refused through a symbolic link, to the file or to its directory', () => {
    symlinkSync(join(outside, 'secret'), join(folder, 'link'));
    rawBacking('link');
    expect(refusal('permission')).toContain(join(outside, 'secret'));
    symlinkSync(outside, join(folder, 'dir'));
    rawBacking('dir/secret');
    expect(refusal('permission')).toContain(join(outside, 'secret'));
  });

  test('opens where its directory was allowed, and not where another one was', () => {
    rawBacking(join(outside, 'secret'));
    const read = withDisk(image, { readOnly: true, allowBacking: [outside] }, readAll);
    expect(read[CLUSTER]).toBe(0xbb);
    expect(() => openDisk(image, { readOnly: true, allowBacking: [join(folder, '.')] })).toThrow(/outside/);
  });

  test('a directory whose name only begins like an allowed one is another directory', () => {
    mkdirSync(`${outside}-more`);
    try {
      copyFileSync(join(outside, 'secret'), join(`${outside}-more`, 'secret'));
      rawBacking(join(`${outside}-more`, 'secret'));
      expect(() => openDisk(image, { readOnly: true, allowBacking: [outside] })).toThrow(/outside/);
    } finally {
      removeTemporaryDirectory(`${outside}-more`);
    }
  });

  test('beside a symbolic link to the image is found as QEMU finds it, and refused unless that directory was allowed', () => {
    writeFileSync(join(folder, 'base.raw'), Buffer.alloc(65536, 0x33));
    rawBacking('base.raw', { empty: true });
    const link = join(outside, 'link.qed');
    symlinkSync(image, link);
    const missing = `${join(outside, 'base.raw')} of ${link} does not exist`;
    expect(() => openDisk(link, { readOnly: true })).toThrow(`lies outside the image's own directory`);
    expect(() => openDisk(link, { readOnly: true, allowBacking: [outside] })).toThrow(missing);
    writeFileSync(join(outside, 'base.raw'), Buffer.alloc(65536, 0x44));
    expect(() => openDisk(link, { readOnly: true })).toThrow(`lies outside the image's own directory`);
    expect(withDisk(link, { readOnly: true, allowBacking: [outside] }, readAll)[0]).toBe(0x44);
    // a link that leads back into the directory of the image
    execFileSync('ln', ['-sf', join(folder, 'base.raw'), join(outside, 'base.raw')]);
    expect(withDisk(link, { readOnly: true }, readAll)[0]).toBe(0x33);
  });

  test('is refused where ".." leads out through a link to a directory, and found where it leads back', () => {
    mkdirSync(join(outside, 'sub'));
    symlinkSync(join(outside, 'sub'), join(folder, 'dir'));
    writeFileSync(join(folder, 'secret'), Buffer.alloc(65536, 0x33));
    rawBacking('dir/../secret');
    expect(refusal('permission')).toContain(join(outside, 'secret'));
    rawBacking(`dir/../../${basename(folder)}/secret`, { empty: true });
    expect(withDisk(image, { readOnly: true }, readAll)[0]).toBe(0x33);
  });
});

describe('a name that is no file name', () => {
  test.each([
    'json:{"driver":"nbd","path":"/tmp/socket"}',
    'json:{"driver":"raw","offset":512,"file":{"driver":"file","filename":"base.raw"}}',
    'a:b',
    ':base.raw',
    'nbd://127.0.0.1:10809/disk',
    'nbd:unix:/tmp/socket',
    'http://127.0.0.1/disk.raw',
    'https://127.0.0.1/disk.raw',
    'ssh://host/disk',
    'file:base.raw',
    'fat:rw:/tmp',
    'data:text/plain,x',
  ])('%s is refused although a file of that name could exist', (name) => {
    rawBacking(name);
    const message = refusal('permission');
    expect(message).toContain(image);
    expect(message).toContain(name);
  });

  test.each([
    '{"driver":"file","filename":"/etc/passwd"}',
    '{"driver":"raw","file":{"driver":"file","filename":"/etc/passwd"}}',
    '{"file.filename":"../../etc/passwd"}',
  ])('json:%s is the local file it says, and refused outside the directory as any other', (options) => {
    rawBacking(`json:${options}`);
    expect(refusal('permission')).toMatch(/lies outside the image's own directory; add --allow-backing/);
  });

  test('a json: name that leads to a file in the directory is read, in the format that it says', () => {
    const base = Buffer.alloc(65536, 0x44);
    writeFileSync(join(folder, 'base.raw'), base);
    for (const format of ['"driver":"raw",', '']) {
      const options = `{${format}"file":{"driver":"file","filename":"base.raw"}}`;
      // the image itself says no format, and raw is never guessed
      writeQed(image, { backing: `json:${options}`, empty: true });
      if (format === '') expect(refusal('unsupported')).toContain('raw is never guessed');
      else expect(withDisk(image, { readOnly: true }, readAll)[0]).toBe(0x44);
    }
  });

  test('a NUL byte in it is refused with its offset', () => {
    rawBacking('base\0/etc/passwd');
    expect(refusal('corrupt')).toMatch(/offset 64.*NUL/);
  });

  test.each([
    ['a byte-order mark is a part of it', '\xef\xbb\xbfbase', 'base'],
    ['bytes that are not UTF-8 are those of the file', 'b\xe4se', 'b\ufffdse'],
    ['bytes that are not UTF-8 beside others that are', '\xff\xc3\xa4', '\ufffdä'],
  ])('%s', (_, name, lookalike) => {
    const bytes = Buffer.from(name, 'latin1');
    writeFileSync(Buffer.concat([Buffer.from(`${folder}/`), bytes]), Buffer.alloc(65536, 0x44));
    writeFileSync(join(folder, lookalike), Buffer.alloc(65536, 0x66));
    rawBacking('a'.repeat(bytes.length), { empty: true, bytes: { 64: bytes } });
    expect(withDisk(image, { readOnly: true }, readAll)[0]).toBe(0x44);
    expect(Buffer.from(bytesOfName(inspectDisk(image).backingFilename!))).toEqual(bytes);
  });

  test('a name longer than the host allows is refused', () => {
    rawBacking('a'.repeat(3000));
    expect(refusal('(missing|io|permission)')).toContain('aaa');
  });

  test('two dots at the start of a plain name are no way out', () => {
    writeFileSync(join(folder, '..base.raw'), Buffer.alloc(65536, 0x44));
    rawBacking('..base.raw', { empty: true });
    expect(withDisk(image, { readOnly: true }, readAll)[0]).toBe(0x44);
  });
});

/** The same for a block device, which the user may allow. */
function expectDeviceRefused(name: string, device: string): void {
  rawBacking(name);
  expect(refusal('permission')).toBe(
    `${image} is not opened: its backing file ${device} is a block device, and nobody allowed this one; ` +
      `add --allow-backing ${device}`,
  );
}

/** The image names it as its backing file, and is refused for that. */
function expectNoRegularFile(name: string): void {
  rawBacking(name);
  expect(refusal('permission')).toBe(
    `${image} is not opened: its backing file ${join(folder, name)} is no regular file, and nothing else is opened; ` +
      'put a regular file with its content in its place',
  );
}

function deviceNumbers(device: string): { major: string; minor: string } {
  const [major, minor] = readFileSync(`/sys/class/block/${basename(device)}/dev`, 'utf8')
    .trim()
    .split(':');
  return { major: major!, minor: minor! };
}

describe('a backing file that is no file to read from', () => {
  test('a missing one is an error that names it, and never zeros', () => {
    rawBacking('missing.raw');
    expect(refusal('missing')).toContain(join(folder, 'missing.raw'));
  });

  test('a link to nowhere is an error', () => {
    symlinkSync('nowhere', join(folder, 'link'));
    rawBacking('link');
    refusal('missing');
  });

  test('a link to itself is an error', () => {
    symlinkSync('link', join(folder, 'link'));
    rawBacking('link');
    refusal('(missing|io)');
  });

  test('a FIFO is refused without waiting for its other end', () => {
    execFileSync('mkfifo', [join(folder, 'fifo')]);
    rawBacking('fifo');
    expectNoRegularFile('fifo');
  });

  test('a directory is refused', () => {
    mkdirSync(join(folder, 'sub'));
    expectNoRegularFile('sub');
    rawBacking('.');
    refusal('permission');
  });

  test('a socket is refused', async () => {
    const server = createServer().listen(join(folder, 'socket'));
    await once(server, 'listening');
    expectNoRegularFile('socket');
    server.close();
  });

  test('a device is refused, and not opened; allowing a character device does not help', (context) => {
    requireOrSkip(context, process.geteuid?.() === 0, 'root');
    execFileSync('mknod', [join(folder, 'character'), 'c', '1', '3']);
    expectNoRegularFile('character');
    const allowBacking = [join(folder, 'character')];
    expect(() => openDisk(image, { readOnly: true, allowBacking })).toThrow('is no regular file');
    execFileSync('mknod', [join(folder, 'block'), 'b', '1', '0']);
    expectDeviceRefused('block', join(folder, 'block'));
  });

  test('a loop device is refused by a name in the directory and by a link, also where /dev is allowed, until it is named', (context) => {
    requireOrSkip(context, process.geteuid?.() === 0 && hasCommand('losetup'), 'root and losetup');
    writeFileSync(join(outside, 'base'), Buffer.alloc(65536, 0x44));
    const device = execFileSync('losetup', ['--find', '--show', join(outside, 'base')], { encoding: 'utf8' }).trim();
    try {
      const { major, minor } = deviceNumbers(device);
      execFileSync('mknod', [join(folder, 'node'), 'b', major, minor]);
      expectDeviceRefused('node', join(folder, 'node'));
      symlinkSync(device, join(folder, 'link'));
      expectDeviceRefused('link', device);
      for (const allowed of ['/dev', folder, join(folder, 'node')]) {
        expect(() => openDisk(image, { readOnly: true, allowBacking: [allowed] })).toThrow(
          `its backing file ${device} is a block device, and nobody allowed this one`,
        );
      }
      rawBacking('link', { empty: true });
      for (const allowed of [device, join(folder, 'link')]) {
        expect(withDisk(image, { readOnly: true, allowBacking: [allowed] }, readAll)[0]).toBe(0x44);
      }
      expect(withDisk(join(folder, 'node'), { readOnly: true, format: 'raw' }, readAll)[0]).toBe(0x44);
    } finally {
      execFileSync('losetup', ['--detach', device]);
    }
  });

  test('create stores no name that no later open would take, but one of a file that may still come', () => {
    execFileSync('mkfifo', [join(folder, 'fifo')]);
    const create = (backing: string) =>
      createDisk(join(folder, 'new.qed'), 'qed', { size: 65536, options: new Map(), backing, backingFormat: 'raw' });
    const refusals = { fifo: 'is no regular file and no block device, and', '.': 'is a directory and no disk image' };
    for (const [name, sentence] of Object.entries({ ...refusals, '/dev/null': refusals.fifo })) {
      expect(() => create(name)).toThrow(sentence);
      expect(existsSync(join(folder, 'new.qed'))).toBe(false);
    }
    expect(create('later').virtualSize).toBe(65536);
  });

  test('one whose format is not stored is not guessed to be raw', () => {
    writeFileSync(join(folder, 'base.raw'), Buffer.alloc(8192, 1));
    writeQed(image, { backing: 'base.raw' });
    const message = refusal('unsupported');
    expect(message).toContain(join(folder, 'base.raw'));
    expect(message).toContain('imgfuse rebase -u');
  });
});

describe('a chain without end', () => {
  test('an image that is its own backing file is refused as a loop', () => {
    writeQed(image, { backing: 'disk.qed' });
    expect(refusal('corrupt')).toContain('loop');
  });

  test('an image that is its own backing file by a hard link is refused as a loop', () => {
    writeQed(image, { backing: 'other.qed' });
    execFileSync('ln', [image, join(folder, 'other.qed')]);
    expect(refusal('corrupt')).toContain('loop');
  });

  test.each([2, 3, 5])('a loop over %i images is refused', (count) => {
    for (let i = 0; i < count; i++)
      writeQed(join(folder, i === 0 ? 'disk.qed' : `${i}.qed`), {
        backing: i + 1 === count ? 'disk.qed' : `${i + 1}.qed`,
      });
    expect(refusal('corrupt')).toContain('loop');
  });

  test('a loop further down, which the top is not part of, is refused', () => {
    writeQed(image, { backing: 'a.qed' });
    writeQed(join(folder, 'a.qed'), { backing: 'b.qed' });
    writeQed(join(folder, 'b.qed'), { backing: 'a.qed' });
    expect(refusal('corrupt')).toContain('loop');
  });

  test('32 images are a chain, 33 are too many', () => {
    const chainOf = (count: number) => {
      for (let i = 0; i < count; i++) {
        const backing = i + 1 < count ? { backing: `${i + 1}.qed` } : {};
        writeQed(join(folder, i === 0 ? 'disk.qed' : `${i}.qed`), { ...backing, empty: i + 1 < count });
      }
    };
    chainOf(32);
    expect(withDisk(image, { readOnly: true }, readAll)[0]).toBe(0xaa);
    chainOf(33);
    expect(refusal('limit')).toContain('32');
  });
});

test('every file of a chain is closed again when the open fails', () => {
  writeQed(image, { backing: 'a.qed' });
  writeQed(join(folder, 'a.qed'), { backing: 'missing.raw', backingIsRaw: true });
  for (let i = 0; i < 5; i++) refusal('missing');
  const open = execFileSync('ls', ['-l', `/proc/${process.pid}/fd`], { encoding: 'utf8' });
  expect(open).not.toContain(basename(folder));
});
