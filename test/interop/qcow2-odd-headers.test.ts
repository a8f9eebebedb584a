// Headers that the specification forbids and QEMU opens: they are opened here as well, and read the same.

import { closeSync, openSync, readFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { guestOffset } from '../../src/bytes/offsets.ts';
import { inspectDisk } from '../../src/disk/index.ts';
import { firstDifference, readAll, withDisk } from '../support/image-files.ts';
import { hasQemu, qemuCheck, qemuImg, qemuIo } from '../support/qemu.ts';
import { requireOrSkip } from '../support/requirements.ts';
import { makeTemporaryDirectory, removeTemporaryDirectory } from '../support/temporary.ts';

const HEADER_LENGTH = 100;
const BACKING_OFFSET = 8;
const EXTENSIONS = 112;
const BACKING_FORMAT = 0xe2792aca;

let folder: string;
let image: string;

beforeEach((context) => {
  requireOrSkip(context, hasQemu, 'qemu-img and qemu-io');
  folder = makeTemporaryDirectory();
  image = join(folder, 'top.qcow2');
  qemuImg('create', '-q', '-f', 'qcow2', join(folder, 'base.img'), '1M');
  qemuIo(join(folder, 'base.img'), 'qcow2', 'write -P 0x44 0 64k');
  qemuImg('create', '-q', '-f', 'qcow2', '-b', join(folder, 'base.img'), '-F', 'qcow2', image, '1M');
});
afterEach(() => {
  if (folder !== undefined) removeTemporaryDirectory(folder);
});

function put(offset: number, bytes: Uint8Array): void {
  const file = openSync(image, 'r+');
  writeSync(file, bytes, 0, bytes.length, offset);
  closeSync(file);
}

function u32(...values: readonly number[]): Buffer {
  const bytes = Buffer.alloc(4 * values.length);
  values.forEach((value, index) => {
    bytes.writeUInt32BE(value, 4 * index);
  });
  return bytes;
}

/** What stands from the extensions to the end of the backing name, moved to another place. */
function moveVariablePart(to: number): void {
  const bytes = readFileSync(image);
  const [offset, length] = [bytes.readUInt32BE(BACKING_OFFSET + 4), bytes.readUInt32BE(16)];
  const part = Buffer.from(bytes.subarray(EXTENSIONS, offset + length));
  put(EXTENSIONS, Buffer.alloc(part.length + 512));
  put(to, part);
  put(BACKING_OFFSET + 4, u32(offset + to - EXTENSIONS));
}

/** Reads as QEMU reads it, and after a write here QEMU finds nothing wrong and reads what was written. */
function expectSameAsQemu(): void {
  const same = (): void => {
    const converted = join(folder, 'converted');
    qemuImg('convert', '-f', 'qcow2', '-O', 'raw', image, converted);
    expect(firstDifference(withDisk(image, { readOnly: true }, readAll), readFileSync(converted))).toBe('none');
  };
  same();
  expect(withDisk(image, { readOnly: true }, readAll)[0]).toBe(0x44);
  withDisk(image, { readOnly: false }, (disk) => disk.write(Buffer.alloc(512, 0x77), 0, 512, guestOffset(4096)));
  same();
  qemuCheck(image, 'qcow2');
}

test.each([105, 107, 113, 127])('a header_length of %d', (length) => {
  moveVariablePart(length);
  put(HEADER_LENGTH, u32(length));
  expectSameAsQemu();
});

test('an extension that is there twice counts as the last one', () => {
  const first = Buffer.concat([u32(BACKING_FORMAT, 3), Buffer.from('raw\0\0\0\0\0')]);
  moveVariablePart(EXTENSIONS + first.length);
  put(EXTENSIONS, first);
  expect(inspectDisk(image).backingFormat).toBe('qcow2');
  expectSameAsQemu();
});

test('a backing name inside the header length, which leaves no room for extensions', () => {
  const bytes = readFileSync(image);
  const [offset, length] = [bytes.readUInt32BE(BACKING_OFFSET + 4), bytes.readUInt32BE(16)];
  const name = Buffer.from(bytes.subarray(offset, offset + length));
  put(EXTENSIONS, Buffer.alloc(1024));
  put(105, name);
  put(BACKING_OFFSET + 4, u32(105));
  put(HEADER_LENGTH, u32(256));
  expect(inspectDisk(image).backingFilename).toBe(name.toString());
  expect(inspectDisk(image).backingFormat).toBeUndefined();
  expectSameAsQemu();
});
