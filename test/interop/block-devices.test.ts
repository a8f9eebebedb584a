// Images that lie on a block device, as on a logical volume: its length never changes.

import { execFileSync } from 'node:child_process';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { openDisk } from '../../src/disk/index.ts';
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
  disk.write(new Uint8Array(3 * MIB).fill(7), 0, 3 * MIB, 5 * MIB + 1000);
  disk.discard(6 * MIB, MIB);
  disk.flush();
  disk.write(new Uint8Array(1000).fill(8), 0, 1000, 6 * MIB + 500);
  disk.close();
  expect(tryQemu('qemu-img', 'check', '-f', 'qcow2', device)).toMatchObject({ code: 0 });
  const again = openDisk(device, { readOnly: true });
  const bytes = new Uint8Array(4 * MIB);
  again.read(bytes, 0, bytes.length, 5 * MIB);
  const expected = new Uint8Array(4 * MIB).fill(7, 1000, 3 * MIB + 1000).fill(0, MIB, 2 * MIB);
  expect(Buffer.compare(bytes, expected.fill(8, MIB + 500, MIB + 1500))).toBe(0);
  again.close();
});

test('qcow2 that fills the device gets no space, and goes on', () => {
  qemuImg('create', '-q', '-f', 'qcow2', '-o', 'cluster_size=64k', device, '64M');
  const disk = openDisk(device, { readOnly: false });
  expect(() => disk.write(new Uint8Array(20 * MIB).fill(1), 0, 20 * MIB, 0)).toThrow(
    /cannot grow: the host file system is full/,
  );
  disk.discard(0, 20 * MIB);
  disk.flush();
  disk.flush();
  disk.write(new Uint8Array(MIB).fill(2), 0, MIB, 40 * MIB);
  disk.close();
  expect(tryQemu('qemu-img', 'check', '-f', 'qcow2', device)).toMatchObject({ code: 0 });
});

test('QED is read from a device, and refused for writing before a byte changes', () => {
  const image = join(folder, 'a.qed');
  qemuImg('create', '-q', '-f', 'qed', image, '32M');
  execFileSync('dd', [`if=${image}`, `of=${device}`, 'conv=notrunc,fsync', 'status=none']);
  expect(() => openDisk(device, { readOnly: false })).toThrow(/is a block device, and a QED image grows with its file/);
  const disk = openDisk(device, { readOnly: true });
  expect(disk.status().virtualSize).toBe(32 * MIB);
  disk.close();
});
