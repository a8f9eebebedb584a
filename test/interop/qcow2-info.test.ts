// What is read from images that qemu-img made is what qemu-img says of them: format-specific facts, snapshots, bitmaps with
// the clusters they own; and a header that is read and written again is the same byte for byte.

import { closeSync, openSync, readFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { infoJson, infoLines } from '../../src/cli/commands/info.ts';
import { inspectDisk } from '../../src/disk/info.ts';
import { openDisk } from '../../src/disk/open.ts';
import { bitmapRanges, readBitmapDirectory } from '../../src/format/qcow2/header/bitmap-directory.ts';
import { describeHeader } from '../../src/format/qcow2/header/describe.ts';
import { QCOW_CRYPT_LUKS, type Qcow2Header, serializeHeader } from '../../src/format/qcow2/header/header.ts';
import { readHeader } from '../../src/format/qcow2/header/read-header.ts';
import { checkSnapshotL1, readSnapshotTable } from '../../src/format/qcow2/header/snapshot-table.ts';
import type { HostFile } from '../../src/host/host-file.ts';
import { PosixHostFile } from '../../src/host/posix-file.ts';
import { hasQemu, qemuCheck, qemuImg, qemuIo } from '../support/qemu.ts';
import { requireOrSkip } from '../support/requirements.ts';
import { makeTemporaryDirectory, removeTemporaryDirectory } from '../support/temporary.ts';

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

function withHeader<T>(action: (file: HostFile, header: Qcow2Header) => T, readOnly = false): T {
  const file = PosixHostFile.open(image, true);
  try {
    return action(file, readHeader(file, { readOnly }));
  } finally {
    file.close();
  }
}

interface QemuSnapshot {
  readonly id: string;
  readonly name: string;
  readonly 'vm-state-size': number;
  readonly 'date-sec': number;
  readonly 'date-nsec': number;
}

interface QemuInfo {
  readonly 'virtual-size': number;
  readonly 'cluster-size': number;
  readonly 'dirty-flag': boolean;
  readonly snapshots?: readonly QemuSnapshot[];
  readonly 'backing-filename'?: string;
  readonly 'backing-filename-format'?: string;
  readonly 'format-specific': { readonly data: Record<string, unknown> };
}

/** -U: a dirty image is opened without repair either way, and nobody else has it open. */
function qemuInfo(): QemuInfo {
  return JSON.parse(qemuImg('info', '-U', '--output=json', image)) as QemuInfo;
}

function expectSameFacts(): void {
  const theirs = qemuInfo();
  const ours = withHeader(describeHeader, true);
  expect(ours.specific).toEqual(theirs['format-specific'].data);
  expect(ours).toMatchObject({
    format: 'qcow2',
    virtualSize: theirs['virtual-size'],
    clusterSize: theirs['cluster-size'],
    dirty: theirs['dirty-flag'],
  });
  expect(ours.backing?.name).toBe(theirs['backing-filename']);
  expect(ours.backing?.format).toBe(theirs['backing-filename-format']);
}

function expectSameBytes(): void {
  const wanted = withHeader((_, header) => readFileSync(image).subarray(0, header.clusterSize));
  const written = withHeader((_, header) => serializeHeader(header));
  expect(Buffer.compare(written, wanted)).toBe(0);
}

/** Changes one byte of the image behind QEMU's back. */
function patch(offset: number, byte: number): void {
  const file = openSync(image, 'r+');
  writeSync(file, Uint8Array.of(byte), 0, 1, offset);
  closeSync(file);
}

/** On a fast processor QEMU now and then measures no time at all for a password hash, and gives up. */
describe('the facts of an image', () => {
  test.each([
    '',
    'compat=0.10',
    'cluster_size=512',
    'cluster_size=2M,refcount_bits=64',
    'refcount_bits=1,lazy_refcounts=on',
    'compression_type=zstd',
    'extended_l2=on,cluster_size=16k',
    'cluster_size=4k,extended_l2=off,preallocation=metadata',
  ])('are those of qemu-img with -o %s', (options) => {
    qemuImg('create', '-q', '-f', 'qcow2', ...(options === '' ? [] : ['-o', options]), image, '10M');
    expectSameFacts();
    expectSameBytes();
  });

  test.each(['0.10', '1.1'])('name the backing file with compat=%s', (compat) => {
    qemuImg('create', '-q', '-f', 'raw', join(folder, 'base.raw'), '3M');
    qemuImg('create', '-q', '-f', 'qcow2', '-o', `compat=${compat}`, '-b', 'base.raw', '-F', 'raw', image, '10M');
    expectSameFacts();
    expectSameBytes();
  });

  test.each(['off', 'on'])('name the data file with data_file_raw=%s', (raw) => {
    const data = join(folder, 'disk.data');
    qemuImg('create', '-q', '-f', 'qcow2', '-o', `data_file=${data},data_file_raw=${raw}`, image, '1M');
    expectSameFacts();
    expectSameBytes();
  });

  test('say when the image is dirty or corrupt', () => {
    qemuImg('create', '-q', '-f', 'qcow2', image, '1M');
    patch(79, 1);
    expectSameFacts();
    expect(withHeader(describeHeader, true).dirty).toBe(true);
    patch(79, 3);
    expectSameFacts();
    expect(withHeader(describeHeader, true).specific['corrupt']).toBe(true);
    expect(() => withHeader(() => undefined)).toThrow(/offset 72: the corrupt bit is set/);
  });

  test.each(['aes', 'luks'])('say that an image is encrypted with %s', (format) => {
    const secret = ['--object', 'secret,id=s0,data=geheim'];
    const fast = format === 'luks' ? ',encrypt.iter-time=10' : '';
    const options = `encrypt.format=${format},encrypt.key-secret=s0${fast}`;
    qemuImg('create', '-q', '-f', 'qcow2', ...secret, '-o', options, image, '1M');
    expect(qemuInfo()['format-specific'].data['encrypt']).toMatchObject({ format });
    expect(withHeader(describeHeader).specific['encrypt']).toEqual(qemuInfo()['format-specific'].data['encrypt']);
    expectSameBytes();
    withHeader((_, header) => {
      expect(header.cryptoHeader === null).toBe(header.cryptMethod !== QCOW_CRYPT_LUKS);
      const { offset, length } = header.cryptoHeader ?? { offset: 0, length: 6 };
      if (format === 'luks')
        expect(
          readFileSync(image)
            .subarray(offset, offset + 6)
            .toString('latin1'),
        ).toBe('LUKS\xba\xbe');
      expect(length).toBeGreaterThan(5);
    });
  });
});

test.each([
  'serpent-256',
  'twofish-192',
  'cast5-128,encrypt.cipher-mode=cbc',
  'aes-128,encrypt.ivgen-alg=essiv',
])('an image encrypted with %s is described as by qemu-img, whether or not it can be opened here', (cipher) => {
  const secret = ['--object', 'secret,id=s0,data=geheim'];
  const options = `encrypt.format=luks,encrypt.key-secret=s0,encrypt.iter-time=10,encrypt.cipher-alg=${cipher}`;
  qemuImg('create', '-q', '-f', 'qcow2', ...secret, '-o', options, image, '1M');
  expect(withHeader(describeHeader).specific['encrypt']).toEqual(qemuInfo()['format-specific'].data['encrypt']);
  const asked = vi.fn(() => Buffer.from('geheim'));
  const open = (): void => openDisk(image, { readOnly: true, password: asked }).close();
  if (cipher.startsWith('aes')) open();
  else expect(open).toThrow(/has the cipher \w+; only aes is known/);
  expect(asked).toHaveBeenCalledTimes(cipher.startsWith('aes') ? 1 : 0);
});

describe('the snapshot table', () => {
  test.each(['0.10', '1.1'])('has the snapshots that qemu-img lists with compat=%s', (compat) => {
    qemuImg('create', '-q', '-f', 'qcow2', '-o', `compat=${compat},cluster_size=512`, image, '1M');
    qemuImg('snapshot', '-c', 'eins', image);
    qemuIo(image, 'qcow2', 'write -P 1 0 300k');
    qemuImg('snapshot', '-c', 'zwei mit ümlaut', image);
    if (compat === '1.1') qemuImg('resize', '-q', image, '2M');
    qemuImg('snapshot', '-c', 'x'.repeat(200), image);
    const found = withHeader((file, header) => {
      const { snapshots, length } = readSnapshotTable(file, header);
      expect(length).toBeGreaterThan(3 * 64);
      for (const snapshot of snapshots) checkSnapshotL1(file, header.clusterSize, snapshot);
      return snapshots;
    });
    const wanted = qemuInfo().snapshots!;
    expect(found.map(({ id, name, vmStateSize }) => ({ id, name, vmStateSize }))).toEqual(
      wanted.map((entry) => ({ id: entry.id, name: entry.name, vmStateSize: String(entry['vm-state-size']) })),
    );
    expect(found.map(({ dateSeconds }) => dateSeconds)).toEqual(wanted.map((entry) => entry['date-sec']));
    expect(found.map(({ dateNanoseconds }) => dateNanoseconds)).toEqual(wanted.map((entry) => entry['date-nsec']));
    const last = compat === '1.1' ? 2 : 1;
    expect(found.map(({ diskSize }) => diskSize / 1024 / 1024)).toEqual([1, 1, last]);
    expect(found.map(({ l1Size }) => l1Size)).toEqual([32, 32, 32 * last]);
  });
});

describe('the bitmaps', () => {
  /** Clusters with a refcount, of an image with 16-bit refcounts and one refcount block table cluster. */
  function clustersInUse(): number {
    const bytes = readFileSync(image);
    return withHeader((_, { clusterSize, refcountTableOffset, refcountTableClusters }) => {
      let used = 0;
      for (let at = 0; at < refcountTableClusters * clusterSize; at += 8) {
        const block = Number(bytes.readBigUInt64BE(refcountTableOffset + at));
        for (let entry = 0; block !== 0 && entry < clusterSize; entry += 2) {
          if (bytes.readUInt16BE(block + entry) !== 0) used++;
        }
      }
      return used;
    });
  }

  test.each([
    '4k',
    '64k',
  ])('are those of qemu-img, and own the clusters that QEMU took for them, clusters of %s', (cluster) => {
    qemuImg('create', '-q', '-f', 'qcow2', '-o', `cluster_size=${cluster}`, image, '64M');
    qemuIo(image, 'qcow2', 'write -P 1 0 64M');
    qemuCheck(image, 'qcow2');
    const before = clustersInUse();
    qemuImg('bitmap', '--add', '-g', '512', image, 'fine');
    qemuImg('bitmap', '--add', '-g', '1M', '--disable', image, 'coarse one');
    qemuIo(image, 'qcow2', 'write -P 2 1M 8M', 'write -P 3 40M 512');
    qemuCheck(image, 'qcow2');
    expectSameFacts();
    expect(withHeader(readBitmapDirectory)).toMatchObject([
      { name: 'fine', granularity: 512, inUse: false, auto: true },
      { name: 'coarse one', granularity: 1024 * 1024, inUse: false, auto: false },
    ]);
    const owned = withHeader((file, header) => {
      const clusters = new Set<number>();
      for (const { offset, length } of bitmapRanges(file, header)) {
        for (let at = offset; at < offset + length; at += header.clusterSize) clusters.add(at);
      }
      return clusters;
    });
    expect(owned.size).toBe(clustersInUse() - before);
    expect(owned.size).toBeGreaterThan(3);
    expectSameBytes();
  });

  test('count as inconsistent, and are not read, when a program has cleared their autoclear bit', () => {
    qemuImg('create', '-q', '-f', 'qcow2', image, '1M');
    qemuImg('bitmap', '--add', image, 'b0');
    patch(95, 0);
    withHeader((file, header) => {
      expect(header.bitmaps).toBeNull();
      expect(header.extensions.map(({ type }) => type)).toContain(0x23852875);
      expect([...bitmapRanges(file, header)]).toEqual([]);
    });
    expectSameBytes();
  });
});

describe('imgfuse info lists the snapshots as qemu-img info does', () => {
  const clockAndState = (): void => {
    const file = openSync(image, 'r+');
    const table = Number(readFileSync(image).readBigUInt64BE(64));
    const bytes = Buffer.alloc(8);
    bytes.writeBigUInt64BE(3_723_456_000_005n);
    writeSync(file, bytes, 0, 8, table + 24);
    bytes.writeBigUInt64BE(5_242_887n);
    writeSync(file, bytes, 0, 8, table + 40);
    bytes.writeBigUInt64BE(77n);
    writeSync(file, bytes, 0, 8, table + 56);
    closeSync(file);
  };

  test.each(['compat=1.1', 'compat=0.10', 'cluster_size=512'])('with -o %s', (options) => {
    qemuImg('create', '-q', '-f', 'qcow2', '-o', options, image, '1M');
    expect(infoJson(image, inspectDisk(image))['snapshots']).toBeUndefined();
    qemuImg('snapshot', '-c', 'a name that is longer than its column', image);
    qemuImg('snapshot', '-c', 'b', image);
    clockAndState();
    const info = inspectDisk(image);
    expect(infoJson(image, info)['snapshots']).toEqual(qemuInfo().snapshots);
    const theirs = qemuImg('info', image).split('\n');
    const ours = infoLines(image, info);
    const listOf = (lines: readonly string[]): readonly string[] => {
      const start = lines.indexOf('Snapshot list:');
      return lines.slice(start, start + 4);
    };
    expect(listOf(theirs)).toHaveLength(4);
    expect(listOf(ours)).toEqual(listOf(theirs));
  });
});
