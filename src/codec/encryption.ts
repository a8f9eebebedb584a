// Types for the encryption of guest data: a password opens a volume key (luks.ts, aes-legacy.ts), and a volume key makes the
// sector cipher for reads and writes (sector-cipher.ts). Invariant: key bytes never appear in a message.

import { ImgfuseError } from '../errors/index.ts';

/** Unit of encryption in bytes, whatever the cluster size. */
export const CRYPTO_SECTOR_BYTES = 512;

/** The key that a password opens. It can be structured-cloned, so that each thread makes its own cipher from it. */
export interface VolumeKey {
  readonly mode: 'xts' | 'cbc';
  readonly ivgen: 'plain' | 'plain64' | 'essiv';
  /** present exactly if ivgen is essiv */
  readonly ivHash?: HashName;
  /**
   * The offset that gives the sector number (divided by 512): 'host' is that of the data in the image file, or in the external
   * data file; 'guest' is that on the virtual disk.
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
   * @param offset index of the first byte in `buffer`, of any alignment
   * @param length bytes, a multiple of 512
   * @param sector number of the first sector, see VolumeKey.sectorOf
   */
  decrypt(buffer: Uint8Array, offset: number, length: number, sector: number): void;
  /** Like decrypt(). It overwrites the plain data in `buffer`: pass a copy if you still need it. */
  encrypt(buffer: Uint8Array, offset: number, length: number, sector: number): void;
}

/** Overwrites key bytes. It cannot reach the copies that node:crypto and the garbage collector make. */
export function wipe(...secrets: readonly Uint8Array[]): void {
  for (const secret of secrets) secret.fill(0);
}

export function wrongPassword(path: string, detail: string): ImgfuseError {
  return new ImgfuseError('permission', `${path}: the password is wrong: ${detail}`, { path });
}
