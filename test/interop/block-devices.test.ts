// Images that lie on a block device, as on a logical volume: its length never changes. The device may be the image itself or
// its backing file.

import { execFileSync } from 'node:child_process';
import { readdirSync, readFileSync, readlinkSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { guestOffset } from '../../src/bytes/offsets.ts';
import { attachDisk, checkDisk, createDisk, openDisk } from '../../src/disk/index.ts';
import { PosixHostFile } from '../../src/host/posix-file.ts';
import { readAll, withDisk } from '../support/image-files.ts';
import { qemuImg, tryQemu } from '../support/qemu.ts';
import { canMountAsRoot, requireOrSkip } from '../support/requirements.ts';
import { makeTemporaryDirectory, removeTemporaryDirectory } from '../support/temporary.ts';

const MIB = 1024 * 1024;

let folder: string;
let device: string;

beforeEach((context) => {
  requireOrSkip(context, canMountAsRoot(), 'root and loop devices');
  folder = makeTemporaryDirectory();
  const file = join(folder, 'volume');
  execFileSync('dd', ['if=/dev/urandom', `of=${file}`, 'bs=1M', 'count=16', 'status=none']);
  device = execFileSync('losetup', ['--find', '--show', file], { encoding: 'utf8' }).trim();
});

afterEach(() => {
  if (device !== undefined) execFileSync('losetup', ['--detach', device]);
  if (folder !== undefined) removeTemporaryDirectory(folder);
});

test.each([
  'cluster_size=64k',
  'cluster_size=4k,lazy_refcounts=on',
])('qcow2 with %s is written, discarded and closed clean', (options) => {
  qemuImg('create', '-q', '-f', 'qcow2', '-o', options, device, '32M');
  const disk = openDisk(device, { readOnly: false });
  disk.write(new Uint8Array(3 * MIB).fill(7), 0, 3 * MIB, guestOffset(5 * MIB + 1000));
  disk.discard(6 * MIB, MIB);
  disk.flush();
  disk.write(new Uint8Array(1000).fill(8), 0, 1000, guestOffset(6 * MIB + 500));
  disk.close();
  expect(tryQemu('qemu-img', 'check', '-f', 'qcow2', device)).toMatchObject({ code: 0 });
  const again = openDisk(device, { readOnly: true });
  const bytes = new Uint8Array(4 * MIB);
  again.read(bytes, 0, bytes.length, guestOffset(5 * MIB));
  const expected = new Uint8Array(4 * MIB).fill(7, 1000, 3 * MIB + 1000).fill(0, MIB, 2 * MIB);
  expect(Buffer.compare(bytes, expected.fill(8, MIB + 500, MIB + 1500))).toBe(0);
  again.close();
});

test('qcow2 that fills the device gets no space, and goes on', () => {
  qemuImg('create', '-q', '-f', 'qcow2', '-o', 'cluster_size=64k', device, '64M');
  const disk = openDisk(device, { readOnly: false });
  expect(() => disk.write(new Uint8Array(20 * MIB).fill(1), 0, 20 * MIB, guestOffset(0))).toThrow(
    /cannot grow: the host file system is full/,
  );
  disk.discard(0, 20 * MIB);
  disk.flush();
  disk.flush();
  disk.write(new Uint8Array(MIB).fill(2), 0, MIB, guestOffset(40 * MIB));
  disk.close();
  expect(tryQemu('qemu-img', 'check', '-f', 'qcow2', device)).toMatchObject({ code: 0 });
});

test.each([
  ['qed', 'QED image'],
  ['vdi', 'VDI image'],
  ['vpc', 'dynamic VHD'],
  ['qcow', 'qcow image'],
  ['vmdk', 'sparse VMDK extent'],
  ['vhdx', 'VHDX'],
  ['parallels', 'Parallels image'],
])('%s is read from a device, and refused for writing before a byte changes', (format, title) => {
  const image = join(folder, 'image');
  createDisk(image, format, { size: 32 * MIB, options: new Map() });
  execFileSync('dd', [`if=${image}`, `of=${device}`, 'conv=notrunc,fsync', 'status=none']);
  const before = readFileSync(join(folder, 'volume'));
  expect(() => openDisk(device, { readOnly: false })).toThrow(`is a block device, and a ${title} grows with its file`);
  execFileSync('sync', [device]);
  expect(readFileSync(join(folder, 'volume')).equals(before)).toBe(true);
  const disk = openDisk(device, { readOnly: true });
  expect(disk.status().virtualSize).toBe(32 * MIB);
  disk.close();
});

test.each([
  ['vdi', { static: 'on' }, 'imgfuse writes VDI images in files only'],
  ['vhdx', { subformat: 'fixed' }, 'imgfuse writes a VHDX in a file only'],
] as const)('%s whose blocks all have places is refused for another reason', (format, options, why) => {
  const image = join(folder, 'image');
  createDisk(image, format, { size: 8 * MIB, options: new Map(Object.entries(options)) });
  execFileSync('dd', [`if=${image}`, `of=${device}`, 'conv=notrunc,fsync', 'status=none']);
  expect(() => openDisk(device, { readOnly: false })).toThrow(`is a block device, and ${why};`);
});

test.each(['raw', 'vpc'])('%s does not change its size there, and is as it was', (format) => {
  const image = join(folder, 'image');
  const length = statSync(join(folder, 'volume')).size;
  const options = new Map(format === 'vpc' ? [['subformat', 'fixed']] : []);
  createDisk(image, format, { size: length - 512, options });
  execFileSync('dd', [`if=${image}`, `of=${device}`, 'conv=notrunc,fsync', 'status=none']);
  const before = readFileSync(join(folder, 'volume'));
  for (const bytes of [-MIB, MIB]) {
    const disk = openDisk(device, { readOnly: false, format });
    expect(() => disk.resize(length + bytes)).toThrow('is a block device, whose length stays');
    disk.close();
  }
  execFileSync('sync', [device]);
  expect(readFileSync(join(folder, 'volume')).equals(before)).toBe(true);
});

// a VDI has no parent but a VDI
describe.each(['qcow2', 'qed', 'vpc'])('a %s overlay of a block device', (format) => {
  const SIZE = 16 * MIB;
  let overlay: string;

  beforeEach(() => {
    overlay = join(folder, 'overlay');
    const options = { options: new Map<string, string>(), backing: device, backingFormat: 'raw' };
    expect(createDisk(overlay, format, options).virtualSize).toBe(SIZE);
  });

  test('is opened when the device is allowed, and never writes to it', () => {
    expect(() => openDisk(overlay, { readOnly: true })).toThrow(`add --allow-backing ${device}`);
    const before = readFileSync(join(folder, 'volume'));
    const options = { readOnly: false, slots: 2, allowBacking: [device] };
    withDisk(overlay, options, (disk) => {
      expect(disk.status().backing).toEqual([device]);
      expect(readAll(disk).equals(before)).toBe(true);
      const other = attachDisk(structuredClone(disk.share()), 1);
      other.write(Buffer.alloc(1000, 7), 0, 1000, guestOffset(5 * MIB + 100));
      disk.discard(8 * MIB, MIB);
    });
    execFileSync('sync', [device]);
    expect(readFileSync(join(folder, 'volume')).equals(before)).toBe(true);
    before.fill(7, 5 * MIB + 100, 5 * MIB + 1100).fill(0, 8 * MIB, 9 * MIB);
    expect(withDisk(overlay, { readOnly: true, allowBacking: [device] }, readAll).equals(before)).toBe(true);
    // QEMU has no check of VHD
    if (format === 'vpc') expect(checkDisk(overlay, { repair: 'none', log: () => undefined }).corruptions).toBe(0);
    else expect(tryQemu('qemu-img', 'check', '-f', format, overlay)).toMatchObject({ code: 0 });
  });

  test('locks the device, so that nobody writes to it meanwhile', () => {
    withDisk(overlay, { readOnly: true, allowBacking: [device] }, () => {
      expect(() => openDisk(device, { readOnly: false, format: 'raw' })).toThrow(/is in use by/);
      expect(tryQemu('qemu-io', '-f', 'raw', '-c', 'write 0 512', device).output).toMatch(/Failed to get .*lock/);
    });
    withDisk(device, { readOnly: false, format: 'raw' }, () => {
      expect(() => openDisk(overlay, { readOnly: true, allowBacking: [device] })).toThrow(/is in use by/);
    });
  });
});

test('a name that leads to another device than the one that was allowed is not opened', () => {
  const { rdev } = statSync(device);
  PosixHostFile.openDevice(device, true, rdev).close();
  expect(() => PosixHostFile.openDevice(device, true, rdev + 1)).toThrow(/not the block device that it was/);
  expect(() => PosixHostFile.openDevice(join(folder, 'volume'), true, rdev)).toThrow(
    /not the block device that it was/,
  );
});

describe('a loop device and the file behind it', () => {
  const raw = (readOnly: boolean) => ({ readOnly, format: 'raw' });

  test('are one image: who writes by one name keeps the other out', () => {
    const file = join(folder, 'volume');
    withDisk(device, raw(false), () => {
      for (const readOnly of [true, false]) expect(() => openDisk(file, raw(readOnly))).toThrow(/volume is in use by/);
      expect(tryQemu('qemu-io', '-f', 'raw', '-c', 'write 0 512', file).output).toMatch(/Failed to get .*lock/);
    });
    withDisk(file, raw(false), () => {
      for (const readOnly of [true, false]) {
        expect(() => openDisk(device, raw(readOnly))).toThrow(`${file} is in use by`);
      }
      openDisk(device, { ...raw(true), locks: 'share' }).close();
    });
    withDisk(device, raw(false), () => undefined);
  });

  test('are read side by side, and closed together', () => {
    const file = join(folder, 'volume');
    const open = () => readdirSync('/proc/self/fd').filter((fd) => linkOf(fd) === file || linkOf(fd) === device);
    withDisk(device, raw(true), () => {
      withDisk(file, raw(true), () => expect(open()).toHaveLength(3));
      expect(() => openDisk(file, raw(false))).toThrow(/volume is in use by/);
    });
    expect(open()).toEqual([]);
    expect(() => openDisk(device, { readOnly: true, format: 'qcow2' })).toThrow(/not a qcow2 image/);
    expect(open()).toEqual([]);
  });
});

function linkOf(fd: string): string | null {
  try {
    return readlinkSync(`/proc/self/fd/${fd}`);
  } catch {
    return null;
  }
}
