// Encryption of guest data: a password gives a volume key (luks.ts, aes-legacy.ts), and a volume key gives the sector cipher
// that reads and writes use (sector-cipher.ts). Invariant: key bytes never appear in a message.

import { ImgfuseError } from '../errors/index.ts';

/** Unit of encryption in bytes, whatever the cluster size. */
export const CRYPTO_SECTOR_BYTES = 512;

/** What a password opens: structured-clonable, so that every thread makes a cipher of its own from it. */
export interface VolumeKey {
  readonly mode: 'xts' | 'cbc';
  readonly ivgen: 'plain' | 'plain64' | 'essiv';
  /** hash of essiv */
  readonly ivHash?: HashName;
  /**
   * Which offset, divided by 512, is the sector number: that of the data in the image file (in the external data file where
   * there is one), or that on the virtual disk.
   */
  readonly sectorOf: 'host' | 'guest';
  /** AES key: 16, 24 or 32 bytes for cbc, twice that for xts */
  readonly key: Uint8Array;
}

/** Hashes that QEMU accepts in a LUKS header, and the length of their digests in bytes. */
export const HASHES = { md5: 16, ripemd160: 20, sha1: 20, sha224: 28, sha256: 32, sha384: 48, sha512: 64 } as const;
export type HashName = keyof typeof HASHES;

/** Encrypts and decrypts whole sectors in place. One object serves one thread. */
export interface SectorCipher {
  /**
   * @param buffer may lie over shared memory
   * @param offset of the first byte in `buffer`, of any alignment
   * @param length bytes, a multiple of 512
   * @param sector number of the first sector: `sectorOf` of the volume key says of which offset
   */
  decrypt(buffer: Uint8Array, offset: number, length: number, sector: number): void;
  /** Like decrypt. It changes the buffer: hand it a copy where the plain data is still needed. */
  encrypt(buffer: Uint8Array, offset: number, length: number, sector: number): void;
}

/** Overwrites key bytes. What node:crypto and the garbage collector have copied is out of reach. */
export function wipe(...secrets: readonly Uint8Array[]): void {
  for (const secret of secrets) secret.fill(0);
}

export function wrongPassword(path: string, detail: string): ImgfuseError {
  return new ImgfuseError('permission', `${path}: the password is wrong: ${detail}`, { path });
}
