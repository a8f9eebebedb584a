// The leaves of format/qcow2 (compressed clusters, encryption, subclusters) over images that QEMU made, found by a naive walk
// of the tables in this file; and what they write, read by QEMU.

import { closeSync, openSync, readFileSync, writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { deflateRawSync } from 'node:zlib';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { legacyAesKey } from '../../src/codec/aes-legacy.ts';
import type { VolumeKey } from '../../src/codec/encryption.ts';
import { createLuksHeader, type LuksOptions, unlockLuks } from '../../src/codec/luks.ts';
import type { LuksArea } from '../../src/codec/luks-header.ts';
import { describeLuks, readLuksFields } from '../../src/codec/luks-header.ts';
import { createSectorCipher } from '../../src/codec/sector-cipher.ts';
import { decodeHere, nativeDecoder } from '../../src/codec/zstd/index.ts';
import type { ImgfuseError } from '../../src/errors/index.ts';
import { decompress, parseCompressedDescriptor } from '../../src/format/qcow2/compressed.ts';
import { subclusterFault, subclusterRuns } from '../../src/format/qcow2/subcluster.ts';
import { PosixHostFile } from '../../src/host/posix-file.ts';
import { hasQemu, qemuImg, tryQemu } from '../support/qemu.ts';
import { seededRandom } from '../support/random.ts';
import { requireOrSkip } from '../support/requirements.ts';
import { makeTemporaryDirectory, removeTemporaryDirectory } from '../support/temporary.ts';

let folder: string;

beforeEach((context) => {
  requireOrSkip(context, hasQemu, 'qemu-img and qemu-io');
  folder = makeTemporaryDirectory();
});
afterEach(() => {
  if (folder !== undefined) removeTemporaryDirectory(folder);
});

/** An L2 entry as it stands in the image. */
interface NaiveEntry {
  readonly guestOffset: number;
  readonly high: number;
  readonly low: number;
  /** subcluster bitmap; 0 without extended L2 entries */
  readonly bitmap: bigint;
  /** host offset of a standard cluster */
  readonly hostOffset: number;
  /** of the entry in the image */
  readonly entryOffset: number;
  readonly compressed: boolean;
}

interface NaiveImage {
  readonly bytes: Buffer;
  readonly clusterBits: number;
  readonly clusterSize: number;
  readonly entries: readonly NaiveEntry[];
}

/** Every L2 entry that is not 0, in guest order. */
function walk(path: string): NaiveImage {
  const bytes = readFileSync(path);
  const clusterBits = bytes.readUInt32BE(20);
  const clusterSize = 2 ** clusterBits;
  const extended = bytes.readUInt32BE(4) === 3 && (bytes.readBigUInt64BE(72) & 16n) !== 0n;
  const entryBytes = extended ? 16 : 8;
  const perTable = clusterSize / entryBytes;
  const l1Table = Number(bytes.readBigUInt64BE(40));
  const offsetMask = ((1n << 56n) - 1n) & ~511n;
  const entries: NaiveEntry[] = [];
  for (let l1 = 0; l1 < bytes.readUInt32BE(36); l1++) {
    const table = Number(bytes.readBigUInt64BE(l1Table + l1 * 8) & offsetMask);
    if (table === 0) continue;
    for (let l2 = 0; l2 < perTable; l2++) {
      const entryOffset = table + l2 * entryBytes;
      const entry = bytes.readBigUInt64BE(entryOffset);
      const bitmap = extended ? bytes.readBigUInt64BE(entryOffset + 8) : 0n;
      if (entry === 0n && bitmap === 0n) continue;
      entries.push({
        guestOffset: (l1 * perTable + l2) * clusterSize,
        high: Number(entry >> 32n),
        low: Number(entry & 0xffffffffn),
        bitmap,
        hostOffset: Number(entry & offsetMask),
        entryOffset,
        compressed: (entry & (1n << 62n)) !== 0n,
      });
    }
  }
  return { bytes, clusterBits, clusterSize, entries };
}

/** Where the header extension 0x0537be77 says that the LUKS header is. */
function cryptoHeader(bytes: Buffer): LuksArea {
  for (
    let at = bytes.readUInt32BE(100);
    bytes.readUInt32BE(at) !== 0;
    at += 8 + Math.ceil(bytes.readUInt32BE(at + 4) / 8) * 8
  ) {
    if (bytes.readUInt32BE(at) !== 0x0537be77) continue;
    return { offset: Number(bytes.readBigUInt64BE(at + 8)), length: Number(bytes.readBigUInt64BE(at + 16)) };
  }
  throw new Error('the image has no encryption header extension');
}

/** Some parts zeros, some text, some noise. */
function mixedBytes(length: number, seed: number): Buffer {
  const random = seededRandom(seed);
  const bytes = Buffer.alloc(length);
  for (let start = 0; start < length; start += 24_000) {
    const kind = Math.floor(random() * 3);
    const end = Math.min(length, start + 24_000);
    const period = 20 + Math.floor(random() * 3000);
    for (let i = start; i < end; i++) {
      if (kind === 1) bytes[i] = i - start < period || random() < 0.01 ? random() * 256 : bytes[i - period]!;
      if (kind === 2) bytes[i] = random() * 256;
    }
  }
  return bytes;
}

function padded(bytes: Buffer, start: number, length: number): Uint8Array {
  const part = Buffer.alloc(length);
  bytes.copy(part, 0, start, Math.min(bytes.length, start + length));
  return part;
}

function qemuHasZstd(): boolean {
  return (
    tryQemu('qemu-img', 'create', '-f', 'qcow2', '-o', 'compression_type=zstd', join(folder, 'x.qcow2'), '1M').code ===
    0
  );
}

describe('compressed clusters of qemu-img convert -c', () => {
  test.for(
    ['512', '4k', '64k', '2M'].flatMap((size) => (['zlib', 'zstd'] as const).map((type) => [size, type] as const)),
  )('of %s as %s decompress to what was written', ([clusterSize, type], context) => {
    requireOrSkip(context, type !== 'zstd' || qemuHasZstd(), 'a qemu-img with zstd');
    const content = mixedBytes(clusterSize === '2M' ? 12 * 2 ** 20 : 3 * 2 ** 20, 11);
    const image = join(folder, 'disk.qcow2');
    const raw = join(folder, 'disk.raw');
    writeFileSync(raw, content);
    qemuImg(
      'convert',
      '-c',
      '-f',
      'raw',
      '-O',
      'qcow2',
      '-o',
      `cluster_size=${clusterSize},compression_type=${type}`,
      raw,
      image,
    );
    const { bytes, clusterBits, clusterSize: size, entries } = walk(image);
    let compressed = 0;
    for (const { guestOffset, high, low, hostOffset, compressed: isCompressed } of entries) {
      const expected = content.subarray(guestOffset, guestOffset + size);
      if (!isCompressed) {
        expect(Buffer.compare(padded(bytes, hostOffset, expected.length), expected)).toBe(0);
        continue;
      }
      compressed++;
      const data = parseCompressedDescriptor(high, low, clusterBits);
      const source = padded(bytes, data.hostOffset, data.length);
      for (const decoder of type === 'zstd' ? [nativeDecoder, decodeHere] : [nativeDecoder]) {
        const cluster = decompress(type, source, size, {}, decoder);
        expect(Buffer.compare(cluster.subarray(0, expected.length), expected)).toBe(0);
      }
    }
    expect(compressed).toBeGreaterThan(clusterSize === '2M' ? 1 : 10);
  });

  test('are read by QEMU with the whole 15-bit window of deflate, too', () => {
    // noise that repeats at a distance of 20000 bytes: compressible only with more than 12 bits
    const random = seededRandom(5);
    const noise = Buffer.from(Uint8Array.from({ length: 20_000 }, () => random() * 256));
    const cluster = Buffer.concat([noise, noise, noise, noise]).subarray(0, 65536);
    const stream = deflateRawSync(cluster, { level: 9 });
    expect(stream.length).toBeLessThan(30_000);
    const image = join(folder, 'disk.qcow2');
    const raw = join(folder, 'disk.raw');
    writeFileSync(raw, Buffer.alloc(65536, 1));
    qemuImg('convert', '-f', 'raw', '-O', 'qcow2', raw, image);
    const [entry] = walk(image).entries;
    const descriptor = Buffer.alloc(8);
    const sectors = BigInt(Math.ceil(stream.length / 512) - 1);
    descriptor.writeBigUInt64BE((1n << 62n) | (sectors << 54n) | BigInt(entry!.hostOffset));
    patch(image, entry!.hostOffset, stream);
    patch(image, entry!.entryOffset, descriptor);
    qemuImg('convert', '-f', 'qcow2', '-O', 'raw', image, raw);
    expect(Buffer.compare(readFileSync(raw), cluster)).toBe(0);
    expect(Buffer.compare(decompress('zlib', stream, 65536), cluster)).toBe(0);
  });
});

function patch(path: string, offset: number, bytes: Uint8Array): void {
  const file = openSync(path, 'r+');
  try {
    writeSync(file, bytes, 0, bytes.length, offset);
  } finally {
    closeSync(file);
  }
}

const PASSWORD = 'correct horse';
const secret = (password: string, id = 'sec0') => ['--object', `secret,id=${id},data=${password}`];

/** qemu-io with the password. */
function qemuIoEncrypted(image: string, password: string, ...commands: string[]): void {
  const options = `driver=qcow2,file.filename=${image},encrypt.key-secret=sec0`;
  const args = [...secret(password), '--image-opts', options, ...commands.flatMap((command) => ['-c', command])];
  const { code, output } = tryQemu('qemu-io', ...args);
  if (code !== 0 || /failed|error|mismatch/i.test(output)) throw new Error(output);
}

/** Writes that cross clusters of 64 KiB, and single sectors; the third number is the pattern. */
const WRITES = [
  [0, 512, 0x11],
  [65536 * 3 - 1024, 70_000 - (70_000 % 512), 0x22],
  [65536 * 9 + 512, 512, 0x33],
  [4 * 2 ** 20 - 512, 512, 0x44],
] as const;
const IMAGE_BYTES = 4 * 2 ** 20;

function written(): Buffer {
  const content = Buffer.alloc(IMAGE_BYTES);
  for (const [offset, length, pattern] of WRITES) content.fill(pattern, offset, offset + length);
  return content;
}

function sectorOf(key: VolumeKey, { guestOffset, hostOffset }: NaiveEntry): number {
  return (key.sectorOf === 'host' ? hostOffset : guestOffset) / 512;
}

/** Decrypts every cluster and compares it; then encrypts others in its place, and lets QEMU read them. */
function expectBothWays(image: string, key: VolumeKey, password: string): void {
  const { bytes, clusterSize, entries } = walk(image);
  const cipher = createSectorCipher(key);
  const expected = written();
  expect(entries.length).toBeGreaterThanOrEqual(4);
  for (const entry of entries) {
    const cluster = Uint8Array.from(padded(bytes, entry.hostOffset, clusterSize));
    expect(Buffer.compare(cluster, expected.subarray(entry.guestOffset, entry.guestOffset + clusterSize))).not.toBe(0);
    cipher.decrypt(cluster, 0, clusterSize, sectorOf(key, entry));
    expect(Buffer.compare(cluster, expected.subarray(entry.guestOffset, entry.guestOffset + clusterSize))).toBe(0);
  }
  const reads = entries.map((entry, i) => {
    const cluster = new Uint8Array(clusterSize).fill(0x60 + i);
    cipher.encrypt(cluster, 0, clusterSize, sectorOf(key, entry));
    patch(image, entry.hostOffset, cluster);
    return `read -P ${0x60 + i} ${entry.guestOffset} ${clusterSize}`;
  });
  qemuIoEncrypted(image, password, ...reads);
}

describe('legacy AES images of QEMU', () => {
  test.each([
    'x',
    PASSWORD,
    '0123456789abcdef',
    '0123456789abcdef and more than 16 bytes',
  ])('with the password %j are read and written', (password) => {
    const image = join(folder, 'disk.qcow2');
    qemuImg(
      'create',
      '-f',
      'qcow2',
      ...secret(password),
      '-o',
      'encrypt.format=aes,encrypt.key-secret=sec0',
      image,
      '4M',
    );
    qemuIoEncrypted(image, password, ...WRITES.map(([offset, length, p]) => `write -P ${p} ${offset} ${length}`));
    expectBothWays(image, legacyAesKey(Buffer.from(password)), password);
  });
});

describe('compressed clusters of an encrypted image', () => {
  test('stand in the clear, so they are decompressed and not decrypted', () => {
    const image = join(folder, 'disk.qcow2');
    qemuImg(
      'create',
      '-f',
      'qcow2',
      ...secret(PASSWORD),
      '-o',
      'encrypt.format=aes,encrypt.key-secret=sec0',
      image,
      '4M',
    );
    qemuIoEncrypted(image, PASSWORD, 'write -c -P 0x5a 64k 64k', 'read -P 0x5a 64k 64k');
    const { bytes, clusterBits, entries } = walk(image);
    expect(entries.map((entry) => entry.compressed)).toEqual([true]);
    const data = parseCompressedDescriptor(entries[0]!.high, entries[0]!.low, clusterBits);
    const cluster = decompress('zlib', padded(bytes, data.hostOffset, data.length), 65536);
    expect(cluster.every((byte) => byte === 0x5a)).toBe(true);
  });
});

const luksCases: readonly LuksOptions[] = [
  {},
  { cipherAlg: 'aes-128', hashAlg: 'sha1' },
  { cipherAlg: 'aes-192', hashAlg: 'sha512' },
  { cipherMode: 'cbc' },
  { cipherMode: 'cbc', ivgenAlg: 'essiv', ivgenHashAlg: 'sha256' },
  { cipherAlg: 'aes-128', cipherMode: 'cbc', ivgenAlg: 'plain', hashAlg: 'sha384' },
  { cipherAlg: 'aes-128', ivgenAlg: 'essiv', ivgenHashAlg: 'sha256', hashAlg: 'sha224' },
  { cipherAlg: 'aes-256', ivgenAlg: 'essiv', ivgenHashAlg: 'md5', hashAlg: 'md5' },
];
const namedLuksCases = luksCases.map((options) => [JSON.stringify(options), options] as const);

/** What qemu-img made for each set of options; it takes seconds. */
const madeImages = new Map<string, Buffer>();

/** An empty image of 4 MiB with PASSWORD. */
function createLuksImage(image: string, options: LuksOptions): void {
  const { cipherAlg, cipherMode, ivgenAlg, ivgenHashAlg, hashAlg } = options;
  const pairs = [
    'encrypt.format=luks,encrypt.key-secret=sec0,encrypt.iter-time=10',
    ...(cipherAlg === undefined ? [] : [`encrypt.cipher-alg=${cipherAlg}`]),
    ...(cipherMode === undefined ? [] : [`encrypt.cipher-mode=${cipherMode}`]),
    ...(ivgenAlg === undefined ? [] : [`encrypt.ivgen-alg=${ivgenAlg}`]),
    ...(ivgenHashAlg === undefined ? [] : [`encrypt.ivgen-hash-alg=${ivgenHashAlg}`]),
    ...(hashAlg === undefined ? [] : [`encrypt.hash-alg=${hashAlg}`]),
  ].join(',');
  const made = madeImages.get(pairs);
  if (made !== undefined) return writeFileSync(image, made);
  qemuImg('create', '-f', 'qcow2', ...secret(PASSWORD), '-o', pairs, image, '4M');
  madeImages.set(pairs, readFileSync(image));
}

function unlockImage(image: string, password: string): VolumeKey {
  const file = PosixHostFile.open(image, true);
  try {
    return unlockLuks(file, cryptoHeader(readFileSync(image)), Buffer.from(password));
  } finally {
    file.close();
  }
}

describe('LUKS images of QEMU', () => {
  test.for(namedLuksCases)('made with %s are unlocked, read and written', ([, options]) => {
    const image = join(folder, 'disk.qcow2');
    createLuksImage(image, options);
    qemuIoEncrypted(image, PASSWORD, ...WRITES.map(([offset, length, p]) => `write -P ${p} ${offset} ${length}`));
    expectBothWays(image, unlockImage(image, PASSWORD), PASSWORD);
    try {
      unlockImage(image, `${PASSWORD} `);
      expect.unreachable();
    } catch (error) {
      expect((error as ImgfuseError).kind).toBe('permission');
    }
  });

  test('open with the password of a second key slot', () => {
    const image = join(folder, 'disk.qcow2');
    createLuksImage(image, {});
    const { key } = unlockImage(image, PASSWORD);
    const opts = `driver=qcow2,file.filename=${image},encrypt.key-secret=sec0`;
    const slot = 'encrypt.state=active,encrypt.new-secret=sec1,encrypt.iter-time=10';
    qemuImg('amend', ...secret(PASSWORD), ...secret('another', 'sec1'), '--image-opts', opts, '-o', slot);
    expect(unlockImage(image, 'another').key).toEqual(key);
    expect(unlockImage(image, PASSWORD).key).toEqual(key);
  });

  test('have the header that qemu-img info tells of', () => {
    const image = join(folder, 'disk.qcow2');
    createLuksImage(image, { cipherMode: 'cbc', ivgenAlg: 'essiv', hashAlg: 'sha512' });
    const info = JSON.parse(qemuImg('info', '--output=json', image));
    expect(headerFacts(image)).toEqual(info['format-specific'].data.encrypt);
  });
});

/** What imgfuse says of the LUKS header of an image. */
function headerFacts(image: string): unknown {
  const file = PosixHostFile.open(image, true);
  try {
    return describeLuks(readLuksFields(file, cryptoHeader(readFileSync(image))));
  } finally {
    file.close();
  }
}

describe('LUKS headers made here', () => {
  test.for(namedLuksCases)('with %s open in QEMU, which reads and writes', ([, options]) => {
    const image = join(folder, 'disk.qcow2');
    createLuksImage(image, options);
    const header = createLuksHeader(Buffer.from('a newer password'), { ...options, iterTimeMs: 1 });
    const pointer = cryptoHeader(readFileSync(image));
    // the layout, and with it the length, is that of qemu-img
    expect(header.length).toBe(pointer.length);
    patch(image, pointer.offset, header);
    qemuIoEncrypted(
      image,
      'a newer password',
      ...WRITES.map(([offset, length, p]) => `write -P ${p} ${offset} ${length}`),
    );
    expectBothWays(image, unlockImage(image, 'a newer password'), 'a newer password');
    expect(() => qemuIoEncrypted(image, PASSWORD, 'read 0 512')).toThrow(/password/);
    const info = JSON.parse(qemuImg('info', '--output=json', image));
    expect(headerFacts(image)).toEqual(info['format-specific'].data.encrypt);
  });
});

describe('extended L2 entries of QEMU', () => {
  test.each([
    ['16k', 512],
    ['64k', 2048],
    ['2M', 65536],
  ])('say of every subcluster of %s clusters what it holds', (clusterSize, subcluster) => {
    const backing = join(folder, 'backing.raw');
    const image = join(folder, 'disk.qcow2');
    writeFileSync(backing, Buffer.alloc(8 * 2 ** 20, 0xbb));
    const options = `extended_l2=on,cluster_size=${clusterSize}`;
    qemuImg('create', '-f', 'qcow2', '-o', options, '-b', backing, '-F', 'raw', image);
    const at = (n: number) => n * subcluster;
    const commands = [
      `write -P 0x11 ${at(0)} ${at(1)}`,
      `write -P 0x12 ${at(5)} ${at(3)}`,
      `write -z ${at(7)} ${at(9)}`,
      `write -P 0x13 ${at(31)} ${at(2)}`,
      `write -z ${at(40)} ${at(4)}`,
      `discard ${at(0)} ${at(1)}`,
    ];
    const { code, output } = tryQemu('qemu-io', '-f', 'qcow2', ...commands.flatMap((c) => ['-c', c]), image);
    expect(code, output).toBe(0);
    const raw = join(folder, 'disk.raw');
    qemuImg('convert', '-f', 'qcow2', '-O', 'raw', image, raw);
    const expected = readFileSync(raw);
    const { bytes, entries } = walk(image);
    const seen = new Set<string>();
    for (const { guestOffset, hostOffset, bitmap } of entries) {
      const words = { allocated: Number(bitmap & 0xffffffffn), zero: Number(bitmap >> 32n) };
      expect(subclusterFault(words, hostOffset !== 0)).toBeNull();
      for (const { first, count, status } of subclusterRuns(words, 0, 32)) {
        seen.add(status);
        const start = at(first);
        const guest = expected.subarray(guestOffset + start, guestOffset + start + at(count));
        const data = Buffer.alloc(at(count), 0xbb);
        if (status === 'zero') data.fill(0);
        if (status === 'data') bytes.copy(data, 0, hostOffset + start, hostOffset + start + at(count));
        expect(Buffer.compare(data, guest), `${status} ${first}+${count} at ${guestOffset}`).toBe(0);
      }
    }
    expect([...seen].sort()).toEqual(['data', 'unallocated', 'zero']);
  });
});
