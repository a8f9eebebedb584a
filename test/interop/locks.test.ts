// Image locks that both programs understand: who writes is alone, readers share, and the refusal names file, holder and cure.

import { mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { createDisk, openDisk, type VirtualDisk } from '../../src/disk/index.ts';
import { ERRNO, errnoOf } from '../../src/errors/index.ts';
import { nativeAvailable } from '../../src/native/index.ts';
import { drawnFormats } from '../support/drawn-rows.ts';
import { imgfuse, isBuilt } from '../support/image-files.ts';
import { hasQemu, QemuHolder, qemuImg, qemuIo, tryQemu } from '../support/qemu.ts';
import { requireOrSkip } from '../support/requirements.ts';
import { makeTemporaryDirectory, removeTemporaryDirectory } from '../support/temporary.ts';

// a lock that is waited for must not hold up the whole run
vi.setConfig({ testTimeout: 30_000, hookTimeout: 30_000 });

let folder: string;
const disks: VirtualDisk[] = [];
const holders: QemuHolder[] = [];

beforeEach((context) => {
  requireOrSkip(context, hasQemu, 'qemu-img and qemu-io');
  requireOrSkip(context, nativeAvailable(), 'the package koffi');
  folder = makeTemporaryDirectory();
});
afterEach(async () => {
  for (const disk of disks.splice(0)) disk.close();
  for (const holder of holders.splice(0)) await holder.close();
  if (folder !== undefined) removeTemporaryDirectory(folder);
});

function open(path: string, format: string, readOnly: boolean): VirtualDisk {
  const disk = openDisk(path, { readOnly, format });
  disks.push(disk);
  return disk;
}

async function hold(path: string, format: string, ...options: string[]): Promise<QemuHolder> {
  const holder = await QemuHolder.open(path, ['-f', format, ...options]);
  holders.push(holder);
  return holder;
}

function refusal(action: () => unknown): { message: string; errno: number } {
  try {
    action();
  } catch (error) {
    return { message: (error as Error).message, errno: errnoOf(error) };
  }
  throw new Error('it was not refused');
}

describe.each(drawnFormats(['qed', 'raw', 'vdi', 'vpc', 'vmdk', 'vhdx', 'parallels']))('a %s image', (format) => {
  let image: string;

  beforeEach(() => {
    image = join(folder, `disk.${format}`);
    createDisk(image, format, { size: 4 << 20, options: new Map() });
  });

  test('that qemu-io has open read-write is refused both ways: the sentence names file, holder and cure', async () => {
    const holder = await hold(image, format);
    // a Parallels image has the mark of QEMU now
    const before = readFileSync(image);
    for (const readOnly of [true, false]) {
      const { message, errno } = refusal(() => open(image, format, readOnly));
      expect(errno).toBe(ERRNO.EBUSY);
      expect(message).toContain(image);
      expect(message).toContain(`qemu-io (process ${holder.pid})`);
      expect(message).toContain('stop that program');
    }
    expect(readFileSync(image).equals(before)).toBe(true);
    await holder.close();
    open(image, format, false);
  });

  test('that is open here is refused by a second opening, and free again after the close', () => {
    const first = openDisk(image, { readOnly: false, format });
    try {
      expect(refusal(() => open(image, format, false)).message).toContain(image);
      expect(refusal(() => open(image, format, true)).message).toContain(image);
    } finally {
      first.close();
    }
    open(image, format, true);
    open(image, format, true);
  });

  test('is free again after an open that was refused or failed', async () => {
    const holder = await hold(image, format);
    refusal(() => open(image, format, false));
    await holder.close();
    qemuIo(image, format, 'write -P 1 0 512');
  });

  test('that QEMU holds is refused by the commands with their exit codes', async (context) => {
    requireOrSkip(context, isBuilt(), 'dist/cli.js (npm run build)');
    const holder = await hold(image, format);
    for (const command of [['info'], ['check'], ['map']] as const) {
      const { code, stderr } = imgfuse(...command, '-f', format, image);
      expect(code).toBe(1);
      expect(stderr).toContain(image);
      expect(stderr).toContain(`process ${holder.pid}`);
    }
    expect(imgfuse('info', '-U', '-f', format, image).code).toBe(0);
    const { code, stderr } = imgfuse('mount', '--format', format, image, folder);
    expect(code).toBe(32);
    expect(stderr).toContain('qemu-io');
  });
});

test('an image that somebody writes is read with share, with all of its chain, and the log says what that means', async () => {
  const base = join(folder, 'base.raw');
  createDisk(base, 'raw', { size: 1 << 20, options: new Map() });
  const image = join(folder, 'disk.qcow2');
  createDisk(image, 'qcow2', { options: new Map(), backing: 'base.raw', backingFormat: 'raw' });
  const holder = await hold(image, 'qcow2');
  const said: string[] = [];
  const disk = openDisk(image, { readOnly: true, locks: 'share', log: (sentence) => said.push(sentence) });
  disks.push(disk);
  expect(said).toEqual([
    expect.stringMatching(
      /disk\.qcow2 is read beside its writer \(share\), .*may look inconsistent; qemu-io \(process/,
    ),
  ]);
  expect(said[0]).toContain(`process ${holder.pid}`);
  // neither of them keeps anybody out of what lies below
  await holder.close();
  qemuIo(base, 'raw', 'write -P 1 0 512');
});

test('an image that is opened without locks keeps nobody out, and the log says so', () => {
  const image = join(folder, 'disk.qed');
  createDisk(image, 'qed', { size: 1 << 20, options: new Map() });
  const said: string[] = [];
  const disk = openDisk(image, { readOnly: false, locks: 'none', log: (sentence) => said.push(sentence) });
  disks.push(disk);
  expect(said).toEqual([
    `${image} is opened without locks: no other program is kept from writing to it at the same time`,
  ]);
  qemuImg('info', '-f', 'qed', image);
});

test('the images of a backing chain are held as QEMU holds them: they may be read, and not written', () => {
  const base = join(folder, 'base.raw');
  createDisk(base, 'raw', { size: 1 << 20, options: new Map() });
  const image = join(folder, 'disk.qed');
  createDisk(image, 'qed', { options: new Map(), backing: 'base.raw', backingFormat: 'raw' });
  open(image, 'qed', false);
  expect(tryQemu('qemu-io', '-f', 'raw', '-c', 'write 0 512', base).output).toMatch(/lock/i);
  qemuImg('info', '-f', 'raw', base);
});

test('a disk of a running VMware machine is refused by its lock folder, and read with share', () => {
  const image = join(folder, 'disk.qed');
  createDisk(image, 'qed', { size: 2 ** 20, options: new Map() });
  mkdirSync(`${image}.lck`);
  open(image, 'qed', false).close();
  disks.pop();
  writeFileSync(join(`${image}.lck`, 'M12345.lck'), '');
  for (const readOnly of [true, false]) {
    const { message, errno } = refusal(() => open(image, 'qed', readOnly));
    expect(errno).toBe(ERRNO.EBUSY);
    expect(message).toContain(`${image} is in use by VMware, which holds ${image}.lck/M12345.lck`);
  }
  openDisk(image, { readOnly: true, locks: 'share' }).close();
  openDisk(image, { readOnly: false, locks: 'none' }).close();
  mkdirSync(join(folder, 'links'));
  const link = join(folder, 'links', 'disk.qed');
  symlinkSync(image, link);
  const held = `${link} is in use by VMware, which holds ${image}.lck/M12345.lck`;
  expect(refusal(() => open(link, 'qed', false)).message).toContain(held);
});
