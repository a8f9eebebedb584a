// Sector ciphers against node:crypto's own, one cipher object a sector, and against the vectors of IEEE 1619.

import { createCipheriv, createHash } from 'node:crypto';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { legacyAesKey } from '../../../src/codec/aes-legacy.ts';
import { type VolumeKey, wipe } from '../../../src/codec/encryption.ts';
import { createSectorCipher } from '../../../src/codec/sector-cipher.ts';
import { seededRandom } from '../../support/random.ts';

function randomBytes(length: number, seed: number): Uint8Array {
  const random = seededRandom(seed);
  return Uint8Array.from({ length }, () => random() * 256);
}

function volume(
  mode: 'xts' | 'cbc',
  ivgen: VolumeKey['ivgen'],
  keyBytes: number,
  ivHash?: 'md5' | 'sha256',
): VolumeKey {
  const key = randomBytes(keyBytes, keyBytes);
  return { mode, ivgen, sectorOf: 'host', key, ...(ivHash === undefined ? {} : { ivHash }) };
}

/** What node:crypto has a mode for; 24-byte keys are missing there with xts, the images of qemu-img test those. */
const volumes: readonly VolumeKey[] = [
  volume('xts', 'plain64', 32),
  volume('xts', 'plain64', 64),
  volume('xts', 'plain', 64),
  volume('xts', 'essiv', 32, 'sha256'),
  volume('cbc', 'plain64', 16),
  volume('cbc', 'plain64', 24),
  volume('cbc', 'plain', 32),
  volume('cbc', 'essiv', 16, 'md5'),
  volume('cbc', 'essiv', 32, 'sha256'),
];

function nameOf({ mode, ivgen, ivHash, key }: VolumeKey): string {
  return `aes-${mode}-${ivgen}${ivHash === undefined ? '' : `:${ivHash}`} with a key of ${key.length} bytes`;
}

function naiveIv({ ivgen, ivHash, key }: VolumeKey, sector: number): Buffer {
  const iv = Buffer.alloc(16);
  iv.writeBigUInt64LE(ivgen === 'plain' ? BigInt(sector) & 0xffffffffn : BigInt(sector));
  if (ivgen !== 'essiv') return iv;
  const salt = createHash(ivHash!).update(key).digest();
  return createCipheriv(`aes-${salt.length * 8}-ecb`, salt, null)
    .setAutoPadding(false)
    .update(iv);
}

function naiveEncrypt(key: VolumeKey, plain: Uint8Array, sector: number): Uint8Array {
  const bits = (key.key.length / (key.mode === 'xts' ? 2 : 1)) * 8;
  const sectors: Uint8Array[] = [];
  for (let at = 0; at < plain.length; at += 512) {
    const iv = naiveIv(key, sector + at / 512);
    const cipher = createCipheriv(`aes-${bits}-${key.mode}`, key.key, iv);
    sectors.push(cipher.setAutoPadding(false).update(plain.subarray(at, at + 512)));
  }
  return Buffer.concat(sectors);
}

describe.each(volumes.map((key) => [nameOf(key), key] as const))('%s', (_name, key) => {
  test('encrypts as node:crypto does sector by sector, and decrypts it again', () => {
    const cipher = createSectorCipher(key);
    const request = fc.record({
      // rounds have 128 sectors
      sectors: fc.oneof(fc.integer({ min: 0, max: 20 }), fc.integer({ min: 120, max: 270 })),
      sector: fc.oneof(fc.nat(), fc.constantFrom(0, 2 ** 32 - 3, 2 ** 44 - 300)),
      before: fc.nat({ max: 20 }),
      seed: fc.nat(),
    });
    fc.assert(
      fc.property(request, ({ sectors, sector, before, seed }) => {
        const length = sectors * 512;
        const plain = randomBytes(before + length + 7, seed);
        const buffer = Uint8Array.from(plain);
        cipher.encrypt(buffer, before, length, sector);
        const expected = Buffer.from(plain);
        expected.set(naiveEncrypt(key, plain.subarray(before, before + length), sector), before);
        expect(Buffer.compare(buffer, expected)).toBe(0);
        cipher.decrypt(buffer, before, length, sector);
        expect(Buffer.compare(buffer, plain)).toBe(0);
      }),
      { numRuns: 60 },
    );
  });

  test('goes on after the key bytes were wiped, and over shared memory', () => {
    const copy = { ...key, key: Uint8Array.from(key.key) };
    const cipher = createSectorCipher(copy);
    wipe(copy.key);
    const plain = randomBytes(4096, 1);
    const buffer = new Uint8Array(new SharedArrayBuffer(5000), 3, 4096);
    buffer.set(plain);
    cipher.encrypt(buffer, 0, 4096, 99);
    expect(Buffer.compare(buffer, naiveEncrypt(key, plain, 99))).toBe(0);
    cipher.decrypt(buffer, 0, 4096, 99);
    expect(Buffer.compare(buffer, plain)).toBe(0);
  });
});

describe('a sector cipher', () => {
  test('gives the first vector of IEEE 1619', () => {
    const key = new Uint8Array(32);
    const buffer = new Uint8Array(512);
    createSectorCipher({ mode: 'xts', ivgen: 'plain64', sectorOf: 'host', key }).encrypt(buffer, 0, 512, 0);
    const vector = '917cf69ebd68b2ec9b9fe9a3eadda692cd43d2f59598ed858c02c2652fbf922e';
    expect(Buffer.from(buffer.subarray(0, 32)).toString('hex')).toBe(vector);
  });

  test('refuses what is no whole sectors inside the buffer at a sector number', () => {
    const cipher = createSectorCipher(volumes[0]!);
    const buffer = new Uint8Array(1024);
    for (const [offset, length, sector] of [
      [0, 511, 0],
      [0, 1536, 0],
      [513, 512, 0],
      [-1, 512, 0],
      [0, 512, -1],
      [0, 512, 0.5],
      [0, 512, 2 ** 53],
      [0, 512, Number.NaN],
    ] as const) {
      expect(() => cipher.encrypt(buffer, offset, length, sector)).toThrow(/assertion/);
      expect(() => cipher.decrypt(buffer, offset, length, sector)).toThrow(/assertion/);
    }
    expect(buffer.every((byte) => byte === 0)).toBe(true);
  });

  test('refuses keys that AES does not have, without their bytes in the message', () => {
    for (const [mode, keyBytes] of [
      ['xts', 16],
      ['xts', 63],
      ['cbc', 64],
      ['cbc', 0],
    ] as const) {
      expect(() => createSectorCipher(volume(mode, 'plain64', keyBytes))).toThrow(
        `assertion failed: an AES-${mode} key of ${keyBytes} bytes`,
      );
    }
  });

  test('refuses essiv with a hash that is no AES key', () => {
    const key = { ...volume('cbc', 'essiv', 32), ivHash: 'sha1' } as const;
    expect(() => createSectorCipher(key)).toThrow(/essiv needs a hash as long as an AES key, such as sha256, not sha1/);
  });
});

describe('the key of a legacy AES image', () => {
  const keyOf = (password: string) => Buffer.from(legacyAesKey(Buffer.from(password)).key).toString('latin1');

  test('is the password with zeros behind it, cut after 16 bytes', () => {
    expect(keyOf('secret')).toBe(`secret${'\0'.repeat(10)}`);
    expect(keyOf('')).toBe('\0'.repeat(16));
    expect(keyOf('0123456789abcdef')).toBe('0123456789abcdef');
    expect(keyOf('0123456789abcdefXYZ')).toBe('0123456789abcdef');
  });

  test('leaves the password as it is', () => {
    const password = Buffer.from('secret');
    legacyAesKey(password);
    expect(password.toString()).toBe('secret');
  });

  test('is for AES-128-CBC by guest sector', () => {
    const { mode, ivgen, sectorOf } = legacyAesKey(Buffer.from('secret'));
    expect({ mode, ivgen, sectorOf }).toEqual({ mode: 'cbc', ivgen: 'plain64', sectorOf: 'guest' });
  });
});
