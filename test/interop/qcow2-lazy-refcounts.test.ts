// The dirty bit of qcow2 with lazy refcounts, in both directions: what imgfuse leaves behind QEMU repairs, what QEMU leaves
// behind imgfuse repairs, and an image without lazy refcounts is never marked.

import { spawnSync } from 'node:child_process';
import { copyFileSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { guestOffset } from '../../src/bytes/offsets.ts';
import { openDisk } from '../../src/disk/open.ts';
import type { WritableImage } from '../../src/format/image-format.ts';
import { qcow2 } from '../../src/format/qcow2/index.ts';
import { MemoryHostFile } from '../support/memory-file.ts';
import { openImage } from '../support/memory-images.ts';
import { get64, put32 } from '../support/qcow2-bytes.ts';
import { hasQemu, qemuCheck, qemuImg, qemuIo, tryQemu } from '../support/qemu.ts';
import { requireOrSkip } from '../support/requirements.ts';
import { makeTemporaryDirectory, removeTemporaryDirectory } from '../support/temporary.ts';
import { FaultyHostFile, RecordingHostFile } from '../support/wrapping-files.ts';

const SIZE = 1024 * 1024;
let folder: string;
let path: string;
beforeEach((context) => {
  requireOrSkip(context, hasQemu, 'qemu-img and qemu-io');
  folder = makeTemporaryDirectory();
  path = join(folder, 'disk.qcow2');
});
afterEach(() => {
  if (folder !== undefined) removeTemporaryDirectory(folder);
});

function create(options: string): MemoryHostFile {
  qemuImg('create', '-q', '-f', 'qcow2', '-o', `cluster_size=4k,${options}`, path, String(SIZE));
  return new MemoryHostFile(readFileSync(path), path);
}

function write(image: WritableImage, at: number, value: number): void {
  image.write(new Uint8Array(4096).fill(value), 0, 4096, guestOffset(at));
}

const isDirty = (file: MemoryHostFile): boolean => (get64(file, 72) & 1n) !== 0n;

/** QEMU writes and is killed: what is in its caches is lost, the dirty bit is in the file. */
function abortedByQemu(): void {
  spawnSync('qemu-io', ['-f', 'qcow2', '-c', 'write -P 7 0 64k', '-c', 'flush', '-c', 'abort', path]);
}

describe('without lazy refcounts', () => {
  test('an image is not marked while it changes, and a crash leaves leaks at most', () => {
    const file = create('lazy_refcounts=off');
    const image = openImage(qcow2, file);
    write(image, 0, 1);
    image.flush();
    expect(isDirty(file)).toBe(false);
    expect(image.details()).toMatchObject({ dirty: false, specific: { 'lazy-refcounts': false } });
    writeFileSync(path, file.bytes());
    qemuImg('check', '-r', 'leaks', path);
    qemuIo(path, 'qcow2', 'read -P 1 0 4k');
  });

  test('an image that QEMU left behind is not dirty, and its data is there', () => {
    create('lazy_refcounts=off');
    abortedByQemu();
    const file = new MemoryHostFile(readFileSync(path), path);
    expect(isDirty(file)).toBe(false);
    const bytes = Buffer.alloc(4096);
    openImage(qcow2, file).read(bytes, 0, 4096, guestOffset(0));
    expect(bytes.every((byte) => byte === 7)).toBe(true);
  });
});

describe('with lazy refcounts', () => {
  test('reading marks nothing, the first change marks, and a clean close clears', () => {
    const file = create('lazy_refcounts=on');
    const image = openImage(qcow2, file);
    image.read(new Uint8Array(512), 0, 512, guestOffset(0));
    image.flush();
    expect(isDirty(file)).toBe(false);
    write(image, 0, 1);
    expect(isDirty(file)).toBe(true);
    expect(image.details()).toMatchObject({ dirty: true, specific: { 'lazy-refcounts': true } });
    image.flush();
    expect(isDirty(file)).toBe(true);
    image.close();
    expect(isDirty(file)).toBe(false);
    writeFileSync(path, file.bytes());
    qemuCheck(path, 'qcow2');
  });

  test('the bit goes when the last writer has gone, and comes back with the next change', () => {
    const file = create('lazy_refcounts=on');
    const image = openImage(qcow2, file);
    write(image, 0, 1);
    image.makeClean();
    expect(isDirty(file)).toBe(false);
    write(image, 0, 2);
    expect(isDirty(file)).toBe(false);
    write(image, 65536, 3);
    expect(isDirty(file)).toBe(true);
    image.close();
    expect(isDirty(file)).toBe(false);
  });

  test('the bit is durable before the first counter changes, and goes after a fdatasync', () => {
    const file = new RecordingHostFile(create('lazy_refcounts=on'));
    const image = openImage(qcow2, file);
    write(image, 0, 1);
    image.close();
    const marks = file.log.flatMap(({ operation, offset }, index) =>
      operation === 'write' && offset === 72 ? [index] : [],
    );
    expect(marks).toHaveLength(2);
    expect(marks[0]).toBe(0);
    expect(file.log[1]!.operation).toBe('sync');
    expect(file.log[marks[1]! - 1]!.operation).toBe('sync');
    expect(file.log.at(-1)!.operation).toBe('sync');
  });

  test('a flush that fails leaves the bit set', () => {
    const file = create('lazy_refcounts=on');
    let failing = false;
    const image = openImage(
      qcow2,
      new FaultyHostFile(file, (operation) => (failing && operation === 'sync' ? 5 : null)),
    );
    write(image, 0, 1);
    failing = true;
    expect(() => image.close()).toThrow();
    expect(isDirty(file)).toBe(true);
  });

  test('an image that imgfuse left behind is repaired by QEMU', () => {
    const file = create('lazy_refcounts=on');
    const image = openImage(qcow2, file);
    write(image, 0, 5);
    image.flush();
    write(image, 65536, 6);
    writeFileSync(path, file.bytes());
    expect(qemuImg('info', '-U', path)).toContain('lazy refcounts: true');
    qemuIo(path, 'qcow2', 'read -P 5 0 4k');
    // a read-write open of QEMU repairs
    qemuIo(path, 'qcow2', 'write -P 9 128k 4k');
    qemuCheck(path, 'qcow2');
    expect(isDirty(new MemoryHostFile(readFileSync(path)))).toBe(false);
  });

  test('an image that QEMU left behind is read as it is, and repaired by a read-write open', () => {
    create('lazy_refcounts=on');
    abortedByQemu();
    const file = new MemoryHostFile(readFileSync(path), path);
    expect(isDirty(file)).toBe(true);
    const before = file.bytes();
    const reader = openImage(qcow2, file.clone(true), { readOnly: true });
    const bytes = Buffer.alloc(65536);
    reader.read(bytes, 0, 65536, guestOffset(0));
    expect(bytes.every((byte) => byte === 7)).toBe(true);
    expect(reader.details().dirty).toBe(true);
    expect(Buffer.compare(file.bytes(), before)).toBe(0);
    expect(tryQemu('qemu-img', 'check', path).code).not.toBe(0);
    const log: string[] = [];
    openImage(qcow2, file, { log: (sentence) => log.push(sentence) }).close();
    expect(log[0]).toContain('was not closed clean; checked: ');
    expect(isDirty(file)).toBe(false);
    writeFileSync(path, file.bytes());
    qemuCheck(path, 'qcow2');
    qemuIo(path, 'qcow2', 'read -P 7 0 64k');
  });

  test('a dirty image below another one is read and not repaired', () => {
    create('lazy_refcounts=on');
    abortedByQemu();
    const base = join(folder, 'base.qcow2');
    copyFileSync(path, base);
    const before = readFileSync(base);
    const overlay = join(folder, 'top.qcow2');
    writeFileSync(overlay, '');
    qemuImg('create', '-q', '-f', 'qcow2', '-u', '-b', 'base.qcow2', '-F', 'qcow2', overlay, String(SIZE));
    const disk = openDisk(overlay, { readOnly: false });
    const bytes = Buffer.alloc(4096);
    disk.read(bytes, 0, 4096, guestOffset(0));
    expect(bytes.every((byte) => byte === 7)).toBe(true);
    disk.write(new Uint8Array(512).fill(1), 0, 512, guestOffset(0));
    disk.close();
    expect(readFileSync(base).equals(before)).toBe(true);
  });
});

describe('the option lazy_refcounts', () => {
  test('marks an image that was created without, and leaves its own bit alone', () => {
    create('lazy_refcounts=off');
    const disk = openDisk(path, { readOnly: false, lazyRefcounts: true });
    disk.write(new Uint8Array(512).fill(1), 0, 512, guestOffset(0));
    expect(disk.status()).toMatchObject({ dirty: true, lazyRefcounts: true });
    expect(isDirty(new MemoryHostFile(readFileSync(path)))).toBe(true);
    disk.close();
    expect(qemuImg('info', path)).toContain('lazy refcounts: false');
    qemuCheck(path, 'qcow2');
  });

  test('is refused for version 2 and for other formats before a byte changes', () => {
    create('compat=0.10');
    const before = readFileSync(path);
    expect(() => openDisk(path, { readOnly: false, lazyRefcounts: true })).toThrow(
      /is a version 2 image, which has no dirty bit.*amend -o compat=1\.1/,
    );
    expect(readFileSync(path).equals(before)).toBe(true);
    const other = join(folder, 'disk.raw');
    writeFileSync(other, Buffer.alloc(4096));
    expect(() => openDisk(other, { readOnly: false, lazyRefcounts: true })).toThrow(/lazy_refcounts is for qcow2/);
  });

  test('changes nothing for a read-only mount of a dirty image', () => {
    const file = create('lazy_refcounts=on');
    put32(file, 76, 1);
    writeFileSync(path, file.bytes());
    const disk = openDisk(path, { readOnly: true, lazyRefcounts: true });
    expect(disk.status().dirty).toBe(true);
    disk.close();
    expect(readFileSync(path).equals(Buffer.from(file.bytes()))).toBe(true);
  });
});
