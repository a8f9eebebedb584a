// A write into part of a new cluster reaches the host in one write, with what must be copied around it, and a part that reads
// as zeros is not written at all.

import { describe, expect, test } from 'vitest';
import { guestOffset } from '../../../../src/bytes/offsets.ts';
import { qcow2 } from '../../../../src/format/qcow2/index.ts';
import { raw } from '../../../../src/format/raw/index.ts';
import { MemoryHostFile } from '../../../support/memory-file.ts';
import { createMemoryImage, openImage } from '../../../support/memory-images.ts';
import { RecordingHostFile } from '../../../support/wrapping-files.ts';

const CLUSTER = 65536;
const SUBCLUSTER = CLUSTER / 32;
const SIZE = 4 * CLUSTER;
const LUKS = { 'encrypt.format': 'luks', 'encrypt.iter-time': '1' };
const PASSWORD = 'secret';
const OLD = 0x41;
const NEW = 9;

interface Setting {
  readonly options?: Record<string, string>;
  readonly backing?: boolean;
  readonly dataFile?: boolean;
}

/** Writes `length` bytes at `offset` of a new disk. @returns offset in the cluster and length of each write of data */
function dataWrites({ options = {}, backing = false, dataFile = false }: Setting, offset: number, length: number) {
  const data = dataFile ? { dataFile: new MemoryHostFile(new Uint8Array(0), '/data') } : {};
  const secret = options === LUKS ? { password: PASSWORD } : {};
  const created = dataFile ? { ...options, data_file: 'data' } : options;
  const file = createMemoryImage(qcow2, SIZE, created, backing ? 'base' : undefined, { ...data, ...secret });
  const recording = new RecordingHostFile(data.dataFile ?? file);
  const below = new MemoryHostFile(new Uint8Array(SIZE).fill(OLD), '/base');
  const image = openImage(qcow2, dataFile ? file : recording, {
    ...(dataFile ? { dataFile: recording } : {}),
    ...secret,
    backing: backing ? openImage(raw, below, { readOnly: true }) : null,
  });
  const begin = recording.log.length;
  image.write(new Uint8Array(length).fill(NEW), 0, length, guestOffset(offset));
  const writes = recording.log.slice(begin).filter(({ data: bytes }) => bytes !== undefined && isData(bytes));
  const content = new Uint8Array(CLUSTER);
  image.read(content, 0, CLUSTER, guestOffset(0));
  const expected = new Uint8Array(CLUSTER).fill(backing ? OLD : 0).fill(NEW, offset, offset + length);
  expect(Buffer.compare(content, expected)).toBe(0);
  image.close();
  return writes.map((write) => [write.offset % CLUSTER, write.length]);
}

/** And not counters, which are 0 or 1, or a new L2 table, which is empty. */
function isData(bytes: Uint8Array): boolean {
  return bytes.length > 8 && bytes.some((byte) => byte > 1);
}

describe('a write into an empty disk', () => {
  test('of whole sectors writes the bytes of the guest', () => {
    expect(dataWrites({}, 4096, 8192)).toEqual([[4096, 8192]]);
  });

  test('that ends inside a sector writes the rest of the sector, too', () => {
    expect(dataWrites({}, 700, 1000)).toEqual([[700, 2048 - 700]]);
  });

  test('writes the bytes of the guest into a data file', () => {
    expect(dataWrites({ dataFile: true }, 700, 1000)).toEqual([[700, 1000]]);
  });

  test('writes the whole cluster if it is encrypted', () => {
    expect(dataWrites({ options: LUKS }, 700, 1000)).toEqual([[0, CLUSTER]]);
  });
});

describe('a write over a backing file', () => {
  test('is one write of the whole cluster', () => {
    expect(dataWrites({ backing: true }, 700, 1000)).toEqual([[0, CLUSTER]]);
  });

  test('is one write of the touched subclusters', () => {
    expect(dataWrites({ backing: true, options: { extended_l2: 'on' } }, SUBCLUSTER + 700, SUBCLUSTER)).toEqual([
      [SUBCLUSTER, 2 * SUBCLUSTER],
    ]);
  });

  test('is one write of the whole cluster of a data file', () => {
    expect(dataWrites({ backing: true, dataFile: true }, 700, 1000)).toEqual([[0, CLUSTER]]);
  });

  test('is one write of the whole cluster if it is encrypted', () => {
    expect(dataWrites({ backing: true, options: LUKS }, 700, 1000)).toEqual([[0, CLUSTER]]);
  });
});
