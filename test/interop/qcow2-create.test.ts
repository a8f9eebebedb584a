// Images made by createQcow2 with every geometry and option, and qemu-img as the judge: check finds nothing, not even a
// leak, the disk reads as zeros, QEMU sees the options that were asked for, and QEMU can write to it afterwards.

import { closeSync, ftruncateSync, openSync, readFileSync, rmSync, statSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { CreateOptions } from '../../src/format/image-format.ts';
import { createQcow2 } from '../../src/format/qcow2/create/create.ts';
import { readHeader } from '../../src/format/qcow2/header/read-header.ts';
import { PosixHostFile } from '../../src/host/posix-file.ts';
import { hasQemu, qemuCheck, qemuImg, qemuIo } from '../support/qemu.ts';
import { requireOrSkip } from '../support/requirements.ts';
import { makeTemporaryDirectory, removeTemporaryDirectory } from '../support/temporary.ts';

const MIB = 1024 * 1024;
const SIZE = 6 * MIB + 512;

let folder: string;
let image: string;

beforeEach((context) => {
  requireOrSkip(context, hasQemu, 'qemu-img and qemu-io');
  folder = makeTemporaryDirectory();
  image = join(folder, 'disk.qcow2');
});
afterEach(() => {
  if (folder !== undefined) removeTemporaryDirectory(folder);
});

/** @param text options as on the command line: "cluster_size=512,refcount_bits=1" */
function create(text: string, size = SIZE, more: Partial<CreateOptions> = {}): void {
  const options = new Map(
    text
      .split(',')
      .filter((pair) => pair !== '')
      .map((pair) => pair.split('=') as [string, string]),
  );
  const file = PosixHostFile.create(image, false);
  const dataFiles: PosixHostFile[] = [];
  const createExtent = (name: string): PosixHostFile => {
    dataFiles.push(PosixHostFile.create(resolve(folder, name), false));
    return dataFiles.at(-1)!;
  };
  try {
    createQcow2(file, { size, options, createExtent, ...more });
    readHeader(file, { readOnly: false });
  } finally {
    for (const open of [file, ...dataFiles]) open.close();
  }
}

/** qemu-img finds nothing wrong and reads zeros, `size` bytes of them. */
function expectZeros(size = SIZE): void {
  qemuCheck(image, 'qcow2');
  const raw = join(folder, 'zeros.raw');
  const file = openSync(raw, 'w');
  ftruncateSync(file, size);
  closeSync(file);
  qemuImg('compare', '-q', '-f', 'qcow2', '-F', 'raw', image, raw);
}

/** QEMU writes at both ends and in the middle, and its own check is still content. */
function expectWritable(size = SIZE): void {
  const middle = Math.floor(size / 2 / 512) * 512;
  qemuIo(
    image,
    'qcow2',
    'write -P 1 0 512',
    `write -P 2 ${middle} 70000`,
    `write -P 3 ${size - 512} 512`,
    `read -P 1 0 512`,
    `read -P 2 ${middle} 70000`,
    `read -P 3 ${size - 512} 512`,
    'read -P 0 512 512',
  );
  qemuCheck(image, 'qcow2');
}

interface Info {
  readonly 'virtual-size': number;
  readonly 'cluster-size': number;
  readonly 'backing-filename'?: string;
  readonly 'backing-filename-format'?: string;
  readonly 'format-specific': { readonly data: Readonly<Record<string, unknown>> };
}

function info(): Info {
  return JSON.parse(qemuImg('info', '--output=json', image)) as Info;
}

const clusterSizes = ['512', '1k', '4k', '64k', '256k', '2M'] as const;
const widths = [1, 2, 4, 8, 16, 32, 64] as const;

describe.each(clusterSizes)('a new image with clusters of %s', (cluster) => {
  test.each(widths)('passes qemu-img check and reads as zeros with %d-bit refcounts', (bits) => {
    create(`cluster_size=${cluster},refcount_bits=${bits}`);
    expectZeros();
    expect(info()['format-specific'].data['refcount-bits']).toBe(bits);
    expectWritable();
  });

  test.each(widths)('has right refcounts and L2 tables with preallocation=metadata and %d-bit refcounts', (bits) => {
    create(`cluster_size=${cluster},refcount_bits=${bits},preallocation=metadata`);
    expectZeros();
    const map = JSON.parse(qemuImg('map', '--output=json', image)) as { present: boolean; offset?: number }[];
    expect(map.every(({ present, offset }) => present && offset !== undefined)).toBe(true);
    const before = statSync(image).size;
    expectWritable();
    expect(statSync(image).size).toBe(before);
  });

  test.each(['0.10', 'v2'])('passes as a version 2 image with compat=%s', (compat) => {
    create(`cluster_size=${cluster},compat=${compat}`);
    expectZeros();
    expect(info()['format-specific'].data['compat']).toBe('0.10');
    expectWritable();
  });

  test('passes as a version 2 image with preallocation=metadata', () => {
    create(`cluster_size=${cluster},compat=0.10,preallocation=metadata`);
    expectZeros();
    expectWritable();
  });
});

describe('the size of a new image', () => {
  test.each([0, 512, 1024, 65536, 65536 + 512, MIB - 512])('can be %d bytes', (size) => {
    for (const cluster of ['512', '64k', '2M']) {
      create(`cluster_size=${cluster},preallocation=metadata`, size);
      expectZeros(size);
      expect(info()['virtual-size']).toBe(size);
      rmSync(image);
    }
  });

  test('is rounded up to whole sectors', () => {
    create('', 1000001);
    expect(info()['virtual-size']).toBe(1000448);
    expectZeros(1000448);
  });

  test('can be the largest that an L1 table of 32 MiB maps', () => {
    create('cluster_size=512', 128 * 1024 * MIB);
    qemuCheck(image, 'qcow2');
    expect(info()['virtual-size']).toBe(128 * 1024 * MIB);
    qemuIo(image, 'qcow2', `write -P 5 ${128 * 1024 * MIB - 512} 512`);
    qemuCheck(image, 'qcow2');
  });

  test('of preallocated 512-byte clusters crosses refcount blocks and refcount table clusters', () => {
    // 64 refcounts in a block, 64 blocks in a cluster of the table: 2 MiB of file each
    create('cluster_size=512,refcount_bits=64,preallocation=metadata', 40 * MIB);
    const file = PosixHostFile.open(image, true);
    expect(readHeader(file, { readOnly: true }).refcountTableClusters).toBeGreaterThan(20);
    file.close();
    expectZeros(40 * MIB);
    expectWritable(40 * MIB);
  });
});

describe('the options of a new image', () => {
  test('are seen by qemu-img info as they were asked for', () => {
    create('lazy_refcounts=on,compression_type=zstd,extended_l2=on,cluster_size=128k,refcount_bits=32');
    expect(info()).toMatchObject({
      'virtual-size': SIZE,
      'cluster-size': 131072,
      'format-specific': {
        data: {
          compat: '1.1',
          'compression-type': 'zstd',
          'lazy-refcounts': true,
          'extended-l2': true,
          'refcount-bits': 32,
          corrupt: false,
        },
      },
    });
    expectZeros();
    expectWritable();
  });

  test.each(['16k', '64k', '2M'])('make subclusters with clusters of %s, preallocated or not', (cluster) => {
    for (const preallocation of ['off', 'metadata', 'falloc', 'full']) {
      create(`cluster_size=${cluster},extended_l2=on,preallocation=${preallocation}`);
      expectZeros();
      expectWritable();
      rmSync(image);
    }
  });

  test.each(['falloc', 'full'])('take the space on the host with preallocation=%s', (preallocation) => {
    create(`preallocation=${preallocation}`);
    expectZeros();
    expect(statSync(image).blocks * 512).toBeGreaterThanOrEqual(SIZE);
    expectWritable();
  });

  test('store the backing file and its format, and the backing file shows through', () => {
    const base = join(folder, 'base.raw');
    qemuImg('create', '-q', '-f', 'raw', base, '4M');
    qemuIo(base, 'raw', 'write -P 0x61 100k 2M');
    for (const options of ['', 'compat=0.10', 'cluster_size=512', 'extended_l2=on,preallocation=metadata']) {
      create(options, SIZE, { backing: { name: 'base.raw', format: 'raw' } });
      qemuCheck(image, 'qcow2');
      expect(info()).toMatchObject({ 'backing-filename': 'base.raw', 'backing-filename-format': 'raw' });
      qemuIo(image, 'qcow2', 'read -P 0 0 100k', 'read -P 0x61 100k 2M', 'read -P 0 2148k 3M');
      rmSync(image);
    }
  });

  test('take the backing file as qemu-img spells it, too', () => {
    qemuImg('create', '-q', '-f', 'qcow2', join(folder, 'base.qcow2'), '4M');
    create('backing_file=base.qcow2,backing_fmt=qcow2');
    expect(info()).toMatchObject({ 'backing-filename': 'base.qcow2', 'backing-filename-format': 'qcow2' });
    qemuCheck(image, 'qcow2');
  });
});

describe('a new image with a data file', () => {
  test.each(['off', 'metadata', 'falloc', 'full'])('passes with preallocation=%s', (preallocation) => {
    // QEMU looks for a relative name in its own working directory
    const data = join(folder, 'disk.data');
    create(`data_file=${data},preallocation=${preallocation}`);
    expect(statSync(data).size).toBe(SIZE);
    expect(info()['format-specific'].data).toMatchObject({ 'data-file': data, 'data-file-raw': false });
    expectZeros();
    expectWritable();
  });

  test.each([
    '',
    ',extended_l2=on',
    ',cluster_size=512',
    ',cluster_size=2M,refcount_bits=1',
  ])('is the raw disk with data_file_raw=on%s, in both directions', (more) => {
    const data = join(folder, 'disk.data');
    create(`data_file=${data},data_file_raw=on${more}`);
    expect(info()['format-specific'].data['data-file-raw']).toBe(true);
    expectZeros();
    expectWritable();
    expect(readFileSync(data)[SIZE - 512]).toBe(3);
    qemuIo(data, 'raw', 'write -P 9 1M 64k');
    qemuIo(image, 'qcow2', 'read -P 9 1M 64k');
    qemuImg('compare', '-q', '-f', 'qcow2', '-F', 'raw', image, data);
  });
});
