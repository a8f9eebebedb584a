// The LUKS1 header inside an image: bytes <-> fields (source: LUKS1 On-Disk Format Specification 1.2.3). Invariant: a LuksHeader
// has passed all limits. 592 bytes, big-endian; its offsets count from its first byte.
//
//     0 magic "LUKS\xba\xbe"   6 version u16        8 cipher-name[32]     40 cipher-mode[32]   72 hash-spec[32]
//   104 payload-offset u32 (sectors)              108 key-bytes u32      112 mk-digest[20]    132 mk-digest-salt[32]
//   164 mk-digest-iterations u32                  168 uuid[40]           208 eight key slots of 48 bytes:
//     0 active u32   4 iterations u32   8 salt[32]   40 key-material-offset u32 (sectors)   44 stripes u32

import { divideUp, type HostOffset, hostOffset } from '../bytes/offsets.ts';
import { ImgfuseError } from '../errors/index.ts';
import type { HostFile } from '../host/host-file.ts';
import { CRYPTO_SECTOR_BYTES, HASHES, type HashName, type VolumeKey } from './encryption.ts';

export const LUKS_PHDR_BYTES = 592;
export const LUKS_MAGIC: readonly number[] = [0x4c, 0x55, 0x4b, 0x53, 0xba, 0xbe];
export const LUKS_VERSION = 1;
export const LUKS_NUMKEYS = 8;
export const LUKS_DIGESTSIZE = 20;
export const LUKS_SALTSIZE = 32;
export const LUKS_STRIPES = 4000;
/** Key material starts at multiples of this. */
export const LUKS_ALIGN_KEYSLOTS = 4096;
export const LUKS_KEY_ENABLED = 0x00ac71f3;
export const LUKS_KEY_DISABLED = 0x0000dead;

const KEY_SLOTS_OFFSET = 208;
const KEY_SLOT_BYTES = 48;
/** Bounds the memory for key material; every known program writes 4000. */
const MAX_STRIPES = 16384;
/** Bounds the time for one key slot to about a minute; QEMU and cryptsetup aim at 2 seconds, which is a few million. */
export const MAX_ITERATIONS = 100_000_000;

/** The bytes of the image file that hold the LUKS header and its key material. */
export interface LuksArea {
  readonly offset: number;
  readonly length: number;
}

export interface LuksKeySlot {
  readonly active: boolean;
  readonly iterations: number;
  readonly salt: Uint8Array;
  /** bytes from the start of the LUKS header */
  readonly materialOffset: number;
  readonly stripes: number;
}

/** The fields as stored, with any cipher and any limits: enough for `info`. */
export interface LuksFields {
  readonly cipherName: string;
  /** such as "xts-plain64" or "cbc-essiv:sha256" */
  readonly cipherMode: string;
  readonly hashSpec: string;
  /** length of the volume key in bytes; for xts, of both halves */
  readonly keyBytes: number;
  /** in bytes; not used by an image format that has its own way to place data, such as qcow2 */
  readonly payloadOffset: number;
  readonly digest: Uint8Array;
  readonly digestSalt: Uint8Array;
  readonly digestIterations: number;
  readonly uuid: string;
  readonly slots: readonly LuksKeySlot[];
}

/** A header with a supported cipher and checked limits: a password can be tried. */
export interface LuksHeader extends Omit<LuksFields, 'cipherName' | 'cipherMode' | 'hashSpec'> {
  /** mode, IVs and sector numbers of the volume key; the key itself is in the key slots */
  readonly cipher: Omit<VolumeKey, 'key'>;
  readonly hash: HashName;
}

/** Length of the key material of a slot, in bytes: whole sectors. */
export function keyMaterialBytes(keyBytes: number, stripes: number): number {
  return divideUp(keyBytes * stripes, CRYPTO_SECTOR_BYTES) * CRYPTO_SECTOR_BYTES;
}

/** Reads the LUKS header. @throws ImgfuseError corrupt if it is not one, unsupported for another version */
export function readLuksFields(file: HostFile, area: LuksArea): LuksFields {
  const bytes = new Uint8Array(LUKS_PHDR_BYTES);
  const got = file.read(bytes, 0, LUKS_PHDR_BYTES, hostOffset(area.offset));
  if (got < LUKS_PHDR_BYTES || area.length < LUKS_PHDR_BYTES) {
    throw invalid(file, area.offset, `it has ${Math.min(got, area.length)} of ${LUKS_PHDR_BYTES} bytes`);
  }
  const view = new DataView(bytes.buffer);
  if (!LUKS_MAGIC.every((byte, i) => bytes[i] === byte)) throw invalid(file, area.offset, 'its magic is missing');
  const version = view.getUint16(6, false);
  if (version !== LUKS_VERSION) {
    throw unsupported(file, area.offset + 6, `version ${version}; imgfuse reads version 1`);
  }
  const text = (at: number, length: number, name: string): string => textField(file, area, bytes, at, length, name);
  return {
    cipherName: text(8, 32, 'cipher-name'),
    cipherMode: text(40, 32, 'cipher-mode'),
    hashSpec: text(72, 32, 'hash-spec'),
    keyBytes: view.getUint32(108, false),
    payloadOffset: view.getUint32(104, false) * CRYPTO_SECTOR_BYTES,
    digest: bytes.slice(112, 112 + LUKS_DIGESTSIZE),
    digestSalt: bytes.slice(132, 132 + LUKS_SALTSIZE),
    digestIterations: view.getUint32(164, false),
    uuid: text(168, 40, 'uuid'),
    slots: Array.from({ length: LUKS_NUMKEYS }, (_, i) => parseSlot(file, area, view, i)),
  };
}

/** Reads and checks the LUKS header, to try a password. @throws ImgfuseError corrupt, unsupported */
export function readLuksHeader(file: HostFile, area: LuksArea): LuksHeader {
  const { cipherName, cipherMode, hashSpec, ...fields } = readLuksFields(file, area);
  const refuse = (at: number, what: string): ImgfuseError => unsupported(file, area.offset + at, what);
  const cipher = parseCipher(cipherName, cipherMode, refuse);
  const { keyBytes } = fields;
  const halves = cipher.mode === 'xts' ? 2 : 1;
  if (keyBytes !== 16 * halves && keyBytes !== 24 * halves && keyBytes !== 32 * halves) {
    throw invalid(
      file,
      area.offset + 108,
      `key-bytes is ${keyBytes}, which is not the length of an AES-${cipher.mode} key`,
    );
  }
  if (!isHashName(hashSpec)) throw refuse(72, `the hash ${hashSpec}; known are ${Object.keys(HASHES).join(', ')}`);
  checkIterations(file, area.offset + 164, 'mk-digest-iterations', fields.digestIterations);
  for (const [index, slot] of fields.slots.entries()) checkSlot(file, area, index, slot, keyBytes);
  return { ...fields, cipher, hash: hashSpec };
}

/** A NUL-terminated text field of the header. */
function textField(
  file: HostFile,
  area: LuksArea,
  bytes: Uint8Array,
  offset: number,
  length: number,
  name: string,
): string {
  const field = bytes.subarray(offset, offset + length);
  const end = field.indexOf(0);
  if (end < 0 || !field.subarray(0, end).every((byte) => byte > 0x20 && byte < 0x7f)) {
    throw invalid(file, area.offset + offset, `${name} is not a text that ends with a NUL byte`);
  }
  return String.fromCharCode(...field.subarray(0, end));
}

function isHashName(name: string): name is HashName {
  return Object.hasOwn(HASHES, name);
}

/** cipher-name and cipher-mode: "aes", and "xts-plain64" or "cbc-essiv:sha256". */
function parseCipher(
  name: string,
  modeSpec: string,
  refuse: (at: number, what: string) => ImgfuseError,
): LuksHeader['cipher'] {
  if (name !== 'aes') throw refuse(8, `the cipher ${name}; only aes is known`);
  const [mode, ivSpec, ...more] = modeSpec.split('-');
  const [ivgen, ivHash, ...evenMore] = (ivSpec ?? '').split(':');
  const known = (mode === 'xts' || mode === 'cbc') && (ivgen === 'plain' || ivgen === 'plain64' || ivgen === 'essiv');
  const spare = more.length > 0 || evenMore.length > 0 || (ivgen !== 'essiv' && ivHash !== undefined);
  if (!known || spare) {
    throw refuse(40, `the cipher mode ${modeSpec}; known are xts and cbc with plain, plain64 and essiv`);
  }
  if (ivgen !== 'essiv') return { mode, ivgen, sectorOf: 'host' };
  if (ivHash === undefined || !isHashName(ivHash) || (HASHES[ivHash] !== 16 && HASHES[ivHash] !== 32)) {
    throw refuse(40, `the cipher mode ${modeSpec}; essiv takes a hash as long as an AES key, such as sha256`);
  }
  return { mode, ivgen, ivHash, sectorOf: 'host' };
}

function parseSlot(file: HostFile, area: LuksArea, view: DataView, index: number): LuksKeySlot {
  const at = KEY_SLOTS_OFFSET + index * KEY_SLOT_BYTES;
  const state = view.getUint32(at, false);
  if (state !== LUKS_KEY_ENABLED && state !== LUKS_KEY_DISABLED) {
    throw invalid(file, area.offset + at, `key slot ${index} is neither enabled nor disabled`);
  }
  return {
    active: state === LUKS_KEY_ENABLED,
    iterations: view.getUint32(at + 4, false),
    salt: new Uint8Array(view.buffer.slice(at + 8, at + 8 + LUKS_SALTSIZE)),
    materialOffset: view.getUint32(at + 40, false) * CRYPTO_SECTOR_BYTES,
    stripes: view.getUint32(at + 44, false),
  };
}

/** Checks the time and memory that an active slot takes. */
function checkSlot(file: HostFile, area: LuksArea, index: number, slot: LuksKeySlot, keyBytes: number): void {
  if (!slot.active) return;
  const at = KEY_SLOTS_OFFSET + index * KEY_SLOT_BYTES;
  checkIterations(file, area.offset + at + 4, `the iterations of key slot ${index}`, slot.iterations);
  if (slot.stripes < 1 || slot.stripes > MAX_STRIPES) {
    throw invalid(
      file,
      area.offset + at + 44,
      `key slot ${index} has ${slot.stripes} stripes; it must be from 1 to ${MAX_STRIPES}`,
    );
  }
  const end = slot.materialOffset + keyMaterialBytes(keyBytes, slot.stripes);
  if (slot.materialOffset < LUKS_PHDR_BYTES || end > area.length) {
    throw invalid(
      file,
      area.offset + at + 40,
      `the key material of slot ${index} lies at ${slot.materialOffset} to ${end}, outside the ${area.length} bytes of the header`,
    );
  }
}

function checkIterations(file: HostFile, offset: number, name: string, iterations: number): void {
  if (iterations >= 1 && iterations <= MAX_ITERATIONS) return;
  throw invalid(file, offset, `${name} are ${iterations}; they must be from 1 to ${MAX_ITERATIONS}`);
}

/** The first 592 bytes of a LUKS header. */
export function serializeLuksHeader(header: LuksHeader): Uint8Array {
  const bytes = new Uint8Array(LUKS_PHDR_BYTES);
  const view = new DataView(bytes.buffer);
  const { mode, ivgen, ivHash } = header.cipher;
  const text = (at: number, value: string): void => bytes.set(new TextEncoder().encode(value), at);
  bytes.set(LUKS_MAGIC, 0);
  view.setUint16(6, LUKS_VERSION, false);
  text(8, 'aes');
  text(40, ivgen === 'essiv' ? `${mode}-essiv:${ivHash}` : `${mode}-${ivgen}`);
  text(72, header.hash);
  view.setUint32(104, header.payloadOffset / CRYPTO_SECTOR_BYTES, false);
  view.setUint32(108, header.keyBytes, false);
  bytes.set(header.digest, 112);
  bytes.set(header.digestSalt, 132);
  view.setUint32(164, header.digestIterations, false);
  text(168, header.uuid);
  header.slots.forEach((slot, i) => {
    const at = KEY_SLOTS_OFFSET + i * KEY_SLOT_BYTES;
    view.setUint32(at, slot.active ? LUKS_KEY_ENABLED : LUKS_KEY_DISABLED, false);
    view.setUint32(at + 4, slot.iterations, false);
    bytes.set(slot.salt, at + 8);
    view.setUint32(at + 40, slot.materialOffset / CRYPTO_SECTOR_BYTES, false);
    view.setUint32(at + 44, slot.stripes, false);
  });
  return bytes;
}

/** What `info` shows of a LUKS header: the keys that `qemu-img info --output=json` has below "encrypt". */
export function describeLuks(fields: LuksFields): Readonly<Record<string, unknown>> {
  const { cipherName, cipherMode, hashSpec, keyBytes, uuid, slots, payloadOffset, digestIterations } = fields;
  const dash = cipherMode.indexOf('-');
  const mode = dash < 0 ? cipherMode : cipherMode.slice(0, dash);
  const [ivgen, ivHash] = dash < 0 ? [] : cipherMode.slice(dash + 1).split(':');
  return {
    format: 'luks',
    ...(ivgen === undefined ? {} : { 'ivgen-alg': ivgen }),
    ...(ivHash === undefined ? {} : { 'ivgen-hash-alg': ivHash }),
    'hash-alg': hashSpec,
    'cipher-alg': `${cipherName}-${(keyBytes / (mode === 'xts' ? 2 : 1)) * 8}`,
    'cipher-mode': mode,
    uuid,
    slots: slots.map(({ active, iterations, materialOffset, stripes }) =>
      active
        ? { active, iters: iterations, 'key-offset': materialOffset, stripes }
        : { active, 'key-offset': materialOffset },
    ),
    'payload-offset': payloadOffset,
    'master-key-iters': digestIterations,
  };
}

/** Host offset of the key material of a slot. */
export function keyMaterialOffset(area: LuksArea, slot: LuksKeySlot): HostOffset {
  return hostOffset(area.offset + slot.materialOffset);
}

function invalid(file: HostFile, offset: number, what: string): ImgfuseError {
  return new ImgfuseError('corrupt', `${file.path}: invalid LUKS header at offset ${offset}: ${what}`, {
    path: file.path,
    offset,
  });
}

function unsupported(file: HostFile, offset: number, what: string): ImgfuseError {
  return new ImgfuseError(
    'unsupported',
    `${file.path}: the LUKS header at offset ${offset} has ${what}; open the image with QEMU, or copy it with qemu-img convert`,
    { path: file.path, offset },
  );
}
