// AES-XTS and AES-CBC over 512-byte sectors, made from long-lived ECB and CBC streams: a node:crypto cipher object per sector
// costs ten times as much. Invariants: a stream gets only whole blocks, so it never holds data back; the work is done in aligned
// scratch memory, so buffers may have any alignment and may be shared.

import { type Cipher, createCipheriv, createDecipheriv, createHash, type Decipher } from 'node:crypto';
import { assert, ImgfuseError } from '../errors/index.ts';
import { CRYPTO_SECTOR_BYTES, HASHES, type SectorCipher, type VolumeKey, wipe } from './encryption.ts';

/** Sectors per round. Larger rounds are slower, because they do not fit into the CPU's cache. */
const ROUND_SECTORS = 128;
const BLOCK_BYTES = 16;
const WORDS_PER_BLOCK = 4;
const WORDS_PER_SECTOR = CRYPTO_SECTOR_BYTES / 4;

/** The words of a block are little-endian in XTS and in the sector number of an IV. */
const LITTLE_ENDIAN_HOST = new Uint8Array(Uint32Array.of(1).buffer)[0] === 1;

type Transform = (scratch: Scratch, sectors: number, sector: number) => void;

/** Makes the cipher of a volume key, which may be wiped afterwards. @throws ImgfuseError unsupported */
export function createSectorCipher(volume: VolumeKey): SectorCipher {
  assert(LITTLE_ENDIAN_HOST, 'the host is little-endian');
  const halves = volume.mode === 'xts' ? 2 : 1;
  const keyBytes = volume.key.length / halves;
  assert(
    keyBytes === 16 || keyBytes === 24 || keyBytes === 32,
    `an AES-${volume.mode} key of ${volume.key.length} bytes`,
  );
  const ivs = new InitializationVectors(volume);
  return volume.mode === 'xts' ? new XtsCipher(volume.key, ivs) : new CbcCipher(volume.key, ivs);
}

/** Aligned memory for one round: the data, and the tweaks (xts) or the decrypted blocks (cbc). */
class Scratch {
  readonly bytes = new Uint8Array(ROUND_SECTORS * CRYPTO_SECTOR_BYTES);
  readonly words = new Int32Array(this.bytes.buffer);
  readonly otherBytes = new Uint8Array(ROUND_SECTORS * CRYPTO_SECTOR_BYTES);
  readonly otherWords = new Int32Array(this.otherBytes.buffer);

  /** Calls `transform` once per round; it transforms `bytes` in place. */
  forEachRound(buffer: Uint8Array, offset: number, length: number, sector: number, transform: Transform): void {
    assert(length % CRYPTO_SECTOR_BYTES === 0, `encryption of ${length} bytes, which are not whole sectors`);
    assert(offset >= 0 && offset + length <= buffer.length, `encryption at ${offset} of ${buffer.length} bytes`);
    assert(Number.isSafeInteger(sector) && sector >= 0, `encryption of sector ${sector}`);
    for (let done = 0; done < length; ) {
      const size = Math.min(length - done, this.bytes.length);
      this.bytes.set(buffer.subarray(offset + done, offset + done + size));
      transform(this, size / CRYPTO_SECTOR_BYTES, sector + done / CRYPTO_SECTOR_BYTES);
      buffer.set(size === this.bytes.length ? this.bytes : this.bytes.subarray(0, size), offset + done);
      done += size;
    }
  }
}

function ecb(direction: 'encrypt', key: Uint8Array): Cipher;
function ecb(direction: 'decrypt', key: Uint8Array): Decipher;
function ecb(direction: 'encrypt' | 'decrypt', key: Uint8Array): Cipher | Decipher {
  const name = `aes-${key.length * 8}-ecb`;
  const stream = direction === 'encrypt' ? createCipheriv(name, key, null) : createDecipheriv(name, key, null);
  stream.setAutoPadding(false);
  return stream;
}

/** The IVs of consecutive sectors, 16 bytes each. */
class InitializationVectors {
  private readonly bytes = new Uint8Array(ROUND_SECTORS * BLOCK_BYTES);
  private readonly words = new Uint32Array(this.bytes.buffer);
  private readonly sectorMask: number;
  private readonly essiv: Cipher | null;

  constructor({ ivgen, ivHash, key }: VolumeKey) {
    this.sectorMask = ivgen === 'plain' ? 0 : 1;
    this.essiv = null;
    if (ivgen !== 'essiv') return;
    const digestBytes: number = ivHash === undefined ? 0 : HASHES[ivHash];
    if (digestBytes !== 16 && digestBytes !== 32) {
      throw new ImgfuseError('unsupported', `essiv needs a hash as long as an AES key, such as sha256, not ${ivHash}`);
    }
    const salt = createHash(ivHash!).update(key).digest();
    this.essiv = ecb('encrypt', salt);
    wipe(salt);
  }

  /** The IVs of `count` sectors from `sector` on; valid until the next call. */
  of(sector: number, count: number): Uint8Array {
    const { words } = this;
    for (let i = 0; i < count; i++) {
      const number = sector + i;
      words[i * 4] = number % 2 ** 32;
      words[i * 4 + 1] = Math.floor(number / 2 ** 32) * this.sectorMask;
      words[i * 4 + 2] = 0;
      words[i * 4 + 3] = 0;
    }
    const used = this.bytes.subarray(0, count * BLOCK_BYTES);
    return this.essiv === null ? used : this.essiv.update(used);
  }
}

/** IEEE 1619: C = E1(P ^ T) ^ T with T = E2(IV) * alpha^block in GF(2^128), for every block of a sector. */
class XtsCipher implements SectorCipher {
  private readonly scratch = new Scratch();
  private readonly ivs: InitializationVectors;
  private readonly tweaks: Cipher;
  private readonly encryptRound: Transform;
  private readonly decryptRound: Transform;

  constructor(key: Uint8Array, ivs: InitializationVectors) {
    const half = key.length / 2;
    this.ivs = ivs;
    this.tweaks = ecb('encrypt', key.subarray(half));
    const encryption = ecb('encrypt', key.subarray(0, half));
    const decryption = ecb('decrypt', key.subarray(0, half));
    this.encryptRound = (scratch, sectors, sector) => this.round(encryption, scratch, sectors, sector);
    this.decryptRound = (scratch, sectors, sector) => this.round(decryption, scratch, sectors, sector);
  }

  decrypt(buffer: Uint8Array, offset: number, length: number, sector: number): void {
    this.scratch.forEachRound(buffer, offset, length, sector, this.decryptRound);
  }

  encrypt(buffer: Uint8Array, offset: number, length: number, sector: number): void {
    this.scratch.forEachRound(buffer, offset, length, sector, this.encryptRound);
  }

  private round(stream: Cipher | Decipher, scratch: Scratch, sectors: number, sector: number): void {
    const { bytes, words, otherWords } = scratch;
    this.writeTweaks(scratch, sectors, sector);
    const size = sectors * CRYPTO_SECTOR_BYTES;
    const count = sectors * WORDS_PER_SECTOR;
    for (let i = 0; i < count; i++) words[i]! ^= otherWords[i]!;
    bytes.set(stream.update(bytes.subarray(0, size)));
    for (let i = 0; i < count; i++) words[i]! ^= otherWords[i]!;
  }

  private writeTweaks({ otherBytes, otherWords }: Scratch, sectors: number, sector: number): void {
    const first = this.tweaks.update(this.ivs.of(sector, sectors));
    for (let s = 0; s < sectors; s++) {
      const start = s * WORDS_PER_SECTOR;
      otherBytes.set(first.subarray(s * BLOCK_BYTES, (s + 1) * BLOCK_BYTES), start * 4);
      let t0 = otherWords[start]!;
      let t1 = otherWords[start + 1]!;
      let t2 = otherWords[start + 2]!;
      let t3 = otherWords[start + 3]!;
      for (let at = start + WORDS_PER_BLOCK; at < start + WORDS_PER_SECTOR; at += WORDS_PER_BLOCK) {
        // times alpha: one bit to the left, and x^128 = x^7 + x^2 + x + 1
        const carry = (t3 >> 31) & 0x87;
        t3 = (t3 << 1) | (t2 >>> 31);
        t2 = (t2 << 1) | (t1 >>> 31);
        t1 = (t1 << 1) | (t0 >>> 31);
        t0 = (t0 << 1) ^ carry;
        otherWords[at] = t0;
        otherWords[at + 1] = t1;
        otherWords[at + 2] = t2;
        otherWords[at + 3] = t3;
      }
    }
  }
}

/** C = E(P ^ previous C); the IV is the previous C of a sector's first block. */
class CbcCipher implements SectorCipher {
  private readonly scratch = new Scratch();
  private readonly ivs: InitializationVectors;
  private readonly decryption: Decipher;
  /** one CBC stream through all sectors; `last` is its latest output, which it mixes into the next block */
  private readonly chain: Cipher;
  private readonly last = new Uint8Array(BLOCK_BYTES);

  constructor(key: Uint8Array, ivs: InitializationVectors) {
    this.ivs = ivs;
    this.decryption = ecb('decrypt', key);
    this.chain = createCipheriv(`aes-${key.length * 8}-cbc`, key, this.last);
    this.chain.setAutoPadding(false);
  }

  decrypt(buffer: Uint8Array, offset: number, length: number, sector: number): void {
    this.scratch.forEachRound(buffer, offset, length, sector, this.decryptRound);
  }

  encrypt(buffer: Uint8Array, offset: number, length: number, sector: number): void {
    this.scratch.forEachRound(buffer, offset, length, sector, this.encryptRound);
  }

  private readonly decryptRound: Transform = ({ bytes, words, otherBytes, otherWords }, sectors, sector) => {
    const size = sectors * CRYPTO_SECTOR_BYTES;
    otherBytes.set(this.decryption.update(bytes.subarray(0, size)));
    const ivs = this.ivs.of(sector, sectors);
    // backwards, because each block still needs the ciphertext before it
    for (let s = sectors - 1; s >= 0; s--) {
      const start = s * WORDS_PER_SECTOR;
      for (let i = start + WORDS_PER_SECTOR - 1; i >= start + WORDS_PER_BLOCK; i--) {
        words[i] = otherWords[i]! ^ words[i - WORDS_PER_BLOCK]!;
      }
      for (let i = 0; i < BLOCK_BYTES; i++)
        bytes[start * 4 + i] = otherBytes[start * 4 + i]! ^ ivs[s * BLOCK_BYTES + i]!;
    }
  };

  private readonly encryptRound: Transform = ({ bytes }, sectors, sector) => {
    const ivs = this.ivs.of(sector, sectors);
    for (let s = 0; s < sectors; s++) {
      const start = s * CRYPTO_SECTOR_BYTES;
      // the stream mixes in `last`: cancel that with a second XOR
      for (let i = 0; i < BLOCK_BYTES; i++) bytes[start + i]! ^= ivs[s * BLOCK_BYTES + i]! ^ this.last[i]!;
      const output = this.chain.update(bytes.subarray(start, start + CRYPTO_SECTOR_BYTES));
      bytes.set(output, start);
      this.last.set(output.subarray(CRYPTO_SECTOR_BYTES - BLOCK_BYTES));
    }
  };
}
