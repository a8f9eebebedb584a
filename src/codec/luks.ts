// LUKS: opens a key slot with a password to get the volume key, and makes new LUKS headers. A key slot holds the volume key,
// split into stripes (so that erasing any part destroys it) and encrypted with the PBKDF2 of the password.
// Invariant: keys are overwritten as soon as they are not needed, also after errors, and never appear in a message.

import { createHash, pbkdf2Sync, randomBytes, randomUUID, timingSafeEqual } from 'node:crypto';
import { roundUp } from '../bytes/offsets.ts';
import { ImgfuseError } from '../errors/index.ts';
import type { HostFile } from '../host/host-file.ts';
import { HASHES, type HashName, type VolumeKey, wipe, wrongPassword } from './encryption.ts';
import {
  keyMaterialBytes,
  keyMaterialOffset,
  LUKS_ALIGN_KEYSLOTS,
  LUKS_DIGESTSIZE,
  LUKS_NUMKEYS,
  LUKS_SALTSIZE,
  LUKS_STRIPES,
  type LuksArea,
  type LuksHeader,
  type LuksKeySlot,
  MAX_ITERATIONS,
  readLuksHeader,
  serializeLuksHeader,
} from './luks-header.ts';
import { createSectorCipher } from './sector-cipher.ts';

/**
 * The volume key that `password` opens. The iterations of the key slots decide how long it takes: up to a few seconds for an
 * image that QEMU made.
 * @param password its bytes; not modified
 * @throws ImgfuseError permission for a wrong password; corrupt, unsupported
 */
export function unlockLuks(file: HostFile, area: LuksArea, password: Uint8Array): VolumeKey {
  const header = readLuksHeader(file, area);
  const active = header.slots.filter((slot) => slot.active);
  if (active.length === 0) {
    throw new ImgfuseError(
      'corrupt',
      `${file.path}: the LUKS header at offset ${area.offset} has no active key slot, so no password can open the image`,
      { path: file.path, offset: area.offset },
    );
  }
  for (const slot of active) {
    const key = openSlot(file, area, header, slot, password);
    if (key !== null) return { ...header.cipher, key };
  }
  throw wrongPassword(file.path, `it opens none of the ${active.length} active key slots`);
}

function openSlot(
  file: HostFile,
  area: LuksArea,
  header: LuksHeader,
  slot: LuksKeySlot,
  password: Uint8Array,
): Uint8Array | null {
  const { cipher, keyBytes, hash } = header;
  const material = new Uint8Array(keyMaterialBytes(keyBytes, slot.stripes));
  const got = file.read(material, 0, material.length, keyMaterialOffset(area, slot));
  if (got < material.length) {
    throw new ImgfuseError('corrupt', `${file.path}: the LUKS key material ends beyond the file; it is truncated`, {
      path: file.path,
      offset: area.offset,
    });
  }
  const slotKey = pbkdf2Sync(password, slot.salt, slot.iterations, keyBytes, hash);
  try {
    // sector 0 is the start of the key material, whatever its offset
    createSectorCipher({ ...cipher, key: slotKey }).decrypt(material, 0, material.length, 0);
    const key = mergeStripes(material, keyBytes, slot.stripes, hash);
    if (timingSafeEqual(digestOf(key, header), header.digest)) return key;
    wipe(key);
    return null;
  } finally {
    wipe(slotKey, material);
  }
}

function digestOf(
  key: Uint8Array,
  { digestSalt, digestIterations, hash }: Pick<LuksHeader, 'digestSalt' | 'digestIterations' | 'hash'>,
): Uint8Array {
  return pbkdf2Sync(key, digestSalt, digestIterations, LUKS_DIGESTSIZE, hash);
}

/** Reverses the anti-forensic splitter: every stripe is needed to get the `keyBytes` bytes of the key. */
function mergeStripes(material: Uint8Array, keyBytes: number, stripes: number, hash: HashName): Uint8Array {
  const key = new Uint8Array(keyBytes);
  for (let stripe = 0; stripe < stripes; stripe++) {
    if (stripe > 0) diffuse(key, hash);
    const start = stripe * keyBytes;
    for (let i = 0; i < keyBytes; i++) key[i]! ^= material[start + i]!;
  }
  return key;
}

/** Random stripes and a last one for which mergeStripes() returns `key`; padded with zeros to whole sectors. */
function splitKey(key: Uint8Array, stripes: number, hash: HashName): Uint8Array {
  const material = new Uint8Array(keyMaterialBytes(key.length, stripes));
  const last = (stripes - 1) * key.length;
  material.set(randomBytes(last));
  const mixed = mergeStripes(material, key.length, stripes, hash);
  for (let i = 0; i < key.length; i++) material[last + i] = mixed[i]! ^ key[i]!;
  wipe(mixed);
  return material;
}

/** Replaces each piece of digest length by the hash of its index (big-endian) and itself; the last hash is cut to fit. */
function diffuse(block: Uint8Array, hash: HashName): void {
  const digestBytes = HASHES[hash];
  const number = new Uint8Array(4);
  for (let start = 0, index = 0; start < block.length; start += digestBytes, index++) {
    new DataView(number.buffer).setUint32(0, index, false);
    const piece = block.subarray(start, start + digestBytes);
    const mixed = createHash(hash).update(number).update(piece).digest();
    piece.set(mixed.subarray(0, piece.length));
    wipe(mixed);
  }
}

/** How to encrypt a new image. Names, values and defaults are those of qemu-img's encrypt.* options. */
export interface LuksOptions {
  readonly cipherAlg?: 'aes-128' | 'aes-192' | 'aes-256';
  readonly cipherMode?: 'xts' | 'cbc';
  readonly ivgenAlg?: 'plain' | 'plain64' | 'essiv';
  /** only with essiv */
  readonly ivgenHashAlg?: HashName;
  readonly hashAlg?: HashName;
  /** time that one password attempt shall take on this machine, 1 to 60000 ms */
  readonly iterTimeMs?: number;
}

const MIN_ITERATIONS = 1000;
const MAX_ITER_TIME_MS = 60_000;

/**
 * A LUKS header and its key material, with a new random volume key in slot 0. The layout is that of qemu-img: room for eight
 * slots, each at a multiple of 4096.
 * @param password its bytes; not modified
 * @throws ImgfuseError usage, unsupported
 */
export function createLuksHeader(password: Uint8Array, options: LuksOptions = {}): Uint8Array {
  const { cipher, keyBytes, hash, iterTimeMs } = resolveOptions(options);
  const slotBytes = roundUp(keyMaterialBytes(keyBytes, LUKS_STRIPES), LUKS_ALIGN_KEYSLOTS);
  const payloadOffset = LUKS_ALIGN_KEYSLOTS + LUKS_NUMKEYS * slotBytes;
  const key = randomBytes(keyBytes);
  const digestSalt = randomBytes(LUKS_SALTSIZE);
  const salt = randomBytes(LUKS_SALTSIZE);
  const digestIterations = iterationsFor(iterTimeMs / 8, LUKS_DIGESTSIZE, hash);
  const iterations = iterationsFor(iterTimeMs, keyBytes, hash);
  const slotKey = pbkdf2Sync(password, salt, iterations, keyBytes, hash);
  const material = splitKey(key, LUKS_STRIPES, hash);
  try {
    createSectorCipher({ ...cipher, key: slotKey }).encrypt(material, 0, material.length, 0);
    const header = serializeLuksHeader({
      cipher,
      keyBytes,
      hash,
      payloadOffset,
      digestSalt,
      digestIterations,
      digest: digestOf(key, { digestSalt, digestIterations, hash }),
      uuid: randomUUID(),
      slots: Array.from({ length: LUKS_NUMKEYS }, (_, i) => ({
        active: i === 0,
        iterations: i === 0 ? iterations : 0,
        salt: i === 0 ? salt : new Uint8Array(LUKS_SALTSIZE),
        materialOffset: LUKS_ALIGN_KEYSLOTS + i * slotBytes,
        stripes: LUKS_STRIPES,
      })),
    });
    const bytes = new Uint8Array(payloadOffset);
    bytes.set(header, 0);
    bytes.set(material, LUKS_ALIGN_KEYSLOTS);
    return bytes;
  } finally {
    wipe(key, slotKey, material);
  }
}

function resolveOptions(options: LuksOptions) {
  const { cipherAlg = 'aes-256', cipherMode: mode = 'xts', ivgenAlg: ivgen = 'plain64', hashAlg = 'sha256' } = options;
  const { iterTimeMs = 2000 } = options;
  if (!(iterTimeMs >= 1 && iterTimeMs <= MAX_ITER_TIME_MS)) {
    throw new ImgfuseError('usage', `encrypt.iter-time=${iterTimeMs}: it must be from 1 to ${MAX_ITER_TIME_MS}`);
  }
  if (cipherAlg === 'aes-192' && mode === 'cbc') {
    // 4000 stripes of 24 bytes do not fill whole sectors, so an assertion in QEMU fails
    throw new ImgfuseError('unsupported', 'encrypt.cipher-alg=aes-192 with mode cbc: QEMU cannot open such an image');
  }
  const aesBytes = { 'aes-128': 16, 'aes-192': 24, 'aes-256': 32 }[cipherAlg];
  const ivHash = options.ivgenHashAlg ?? 'sha256';
  const ivs = ivgen === 'essiv' ? { ivgen, ivHash } : { ivgen };
  const cipher: LuksHeader['cipher'] = { mode, ...ivs, sectorOf: 'host' };
  return { cipher, keyBytes: mode === 'xts' ? aesBytes * 2 : aesBytes, hash: hashAlg, iterTimeMs };
}

/** The number of PBKDF2 iterations that take `timeMs` on this machine for a key of `keyBytes`. */
function iterationsFor(timeMs: number, keyBytes: number, hash: HashName): number {
  let sample = 2000;
  for (;;) {
    const started = performance.now();
    pbkdf2Sync('password', 'salt', sample, keyBytes, hash);
    const elapsed = performance.now() - started;
    if (elapsed >= 20 || sample >= MAX_ITERATIONS / 4) {
      return Math.min(MAX_ITERATIONS, Math.max(MIN_ITERATIONS, Math.floor((sample / elapsed) * timeMs)));
    }
    sample *= 2;
  }
}
