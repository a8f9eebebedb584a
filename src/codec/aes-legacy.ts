// The encryption of old QEMU images (crypt_method 1): AES-128-CBC with the password itself as the key and the guest
// sector as the IV. It is weak, and nothing in the image says whether a password is right: a wrong one reads as noise.

import type { VolumeKey } from './encryption.ts';

const KEY_BYTES = 16;

/**
 * The key for a password: its first 16 bytes, padded with zeros, as in QEMU.
 * @param password its bytes; not modified
 */
export function legacyAesKey(password: Uint8Array): VolumeKey {
  const key = new Uint8Array(KEY_BYTES);
  key.set(password.subarray(0, KEY_BYTES));
  return { mode: 'cbc', ivgen: 'plain64', sectorOf: 'guest', key };
}
