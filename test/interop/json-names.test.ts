// Backing names of the form json:{...}, as libvirt and QEMU write them: those that are taken here read as QEMU reads them.

import { spawnSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { firstDifference, readAll, withDisk } from '../support/image-files.ts';
import { writeQed } from '../support/qed-bytes.ts';
import { hasQemu, qemuImg, qemuIo } from '../support/qemu.ts';
import { requireOrSkip } from '../support/requirements.ts';
import { makeTemporaryDirectory, removeTemporaryDirectory } from '../support/temporary.ts';

let folder: string;

beforeEach((context) => {
  requireOrSkip(context, hasQemu, 'qemu-img and qemu-io');
  folder = makeTemporaryDirectory();
  writeFileSync(join(folder, 'base.raw'), Buffer.from('RIGHT'.padEnd(65536, '.')));
  qemuImg('create', '-q', '-f', 'qcow2', join(folder, 'base.qcow2'), '64k');
  qemuIo(join(folder, 'base.qcow2'), 'qcow2', 'write -P 0x52 0 4k');
});
afterEach(() => {
  if (folder !== undefined) removeTemporaryDirectory(folder);
});

const RAW_FILE = { driver: 'file', filename: 'base.raw' };
const QCOW2_FILE = { driver: 'file', filename: 'base.qcow2' };

/** A relative name counts from QEMU's working directory there and from the image's here: the same in this test. */
function convertedBytes(image: string, format: string): Buffer {
  const parameters = ['convert', '-f', format, '-O', 'raw', image, 'converted'];
  const { status, stderr } = spawnSync('qemu-img', parameters, { cwd: folder, encoding: 'utf8' });
  expect(stderr).toBe('');
  expect(status).toBe(0);
  return withDisk(join(folder, 'converted'), { readOnly: true, format: 'raw' }, readAll);
}

function expectSame(image: string, format: string, start: string): void {
  const ours = withDisk(image, { readOnly: true }, readAll);
  expect(ours.toString('latin1', 0, start.length)).toBe(start);
  expect(firstDifference(ours, convertedBytes(image, format))).toBe('none');
}

test.each([
  ['nested', { driver: 'raw', file: RAW_FILE }, 'raw', 'RIGHT'],
  ['flat', { driver: 'raw', 'file.driver': 'file', 'file.filename': 'base.raw' }, 'raw', 'RIGHT'],
  ['without a format', { file: RAW_FILE }, 'raw', 'RIGHT'],
  ['of qcow2', { driver: 'qcow2', file: QCOW2_FILE }, 'qcow2', 'RRRR'],
  ['whose format the image says otherwise', { driver: 'qcow2', file: QCOW2_FILE }, 'raw', 'QFI'],
])('a name that is %s', (_, options, format, start) => {
  const image = join(folder, 'top.qcow2');
  qemuImg('create', '-q', '-u', '-f', 'qcow2', '-b', `json:${JSON.stringify(options)}`, '-F', format, image, '1M');
  expectSame(image, 'qcow2', start);
});

test.each([
  ['a format', { driver: 'raw', file: RAW_FILE }, 'RIGHT'],
  ['the file alone', RAW_FILE, 'RIGHT'],
  ['a file in qcow2 alone, whose bytes are the disk', QCOW2_FILE, 'QFI'],
  ['a file, whose format the content tells', { file: QCOW2_FILE }, 'RRRR'],
])('of an image that says no format: a name with %s', (_, options, start) => {
  const image = join(folder, 'top.qed');
  // two clusters of table: QEMU opens no image with one
  writeQed(image, {
    backing: `json:${JSON.stringify(options)}`,
    empty: true,
    fields: { tableSize: 2n },
  });
  expectSame(image, 'qed', start);
});
