// The format extension of an image of one file: a cluster with features, such as dirty bitmaps, which lie in clusters of their own. A
// change of the disk makes a dirty bitmap wrong, so an open for writing drops the extension; one that says that it must not be dropped
// refuses the open.
//
//   0 magic u64   8 MD5 of what follows   24 features: magic u64, flags u64, bytes u32, unused u32, data up to the next 8 bytes
//   dirty bitmap: size u64, id[16], granularity u32, count u32, count places u64: 0, 1 or a cluster, in sectors

import { createHash } from 'node:crypto';
import { readU64LE } from '../../../bytes/endian.ts';
import { hex, hostOffset, roundUp, SECTOR_BYTES } from '../../../bytes/offsets.ts';
import { ImgfuseError } from '../../../errors/index.ts';
import type { HostFile } from '../../../host/host-file.ts';
import type { ParallelsHeader } from '../header.ts';

const MAGIC = 'ab234cef23dcea87';
const BITMAP_MAGIC = '20385fae252cb34a';
const END_MAGIC = '0000000000000000';
const CHECKED_FROM = 24;
const FEATURE_BYTES = 24;
const NECESSARY = 1;
const TRANSIT = 2;
const BITMAP_BYTES = 32;

export interface Extension {
  /** host offsets of its clusters, not checked */
  readonly places: readonly number[];
  /** why an image with it is not written, as a sentence goes on after "its format extension"; null: it can be dropped */
  readonly keeps: string | null;
}

/** null: the image has none. */
export function readExtension(file: HostFile, { clusterBytes, extension }: ParallelsHeader): Extension | null {
  if (extension === 0) return null;
  const places = [extension];
  const damaged = { places, keeps: 'is damaged, and may say that it must be kept' };
  if (!Number.isSafeInteger(extension + clusterBytes)) return { places: [], keeps: damaged.keeps };
  const bytes = Buffer.alloc(clusterBytes);
  if (file.read(bytes, 0, clusterBytes, hostOffset(extension)) < clusterBytes) return damaged;
  const digest = createHash('md5').update(bytes.subarray(CHECKED_FROM)).digest();
  if (magicAt(bytes, 0) !== MAGIC || !digest.equals(bytes.subarray(8, CHECKED_FROM))) return damaged;
  let keeps: string | null = null;
  for (let at = CHECKED_FROM; ; ) {
    if (at + FEATURE_BYTES > clusterBytes) return damaged;
    const magic = magicAt(bytes, at);
    if (magic === END_MAGIC) return { places, keeps };
    const flags = bytes.readUInt32LE(at + 8);
    const length = bytes.readUInt32LE(at + 16);
    const data = at + FEATURE_BYTES;
    if (data + length > clusterBytes) return damaged;
    const isKnown = magic === BITMAP_MAGIC;
    if ((flags & NECESSARY) !== 0 || (!isKnown && (flags & TRANSIT) !== 0)) {
      keeps = `has a feature (magic ${magic}) that must be kept`;
    }
    if (isKnown) places.push(...bitmapPlaces(bytes.subarray(data, data + length)));
    at = roundUp(data + length, 8);
  }
}

/** Clusters of a dirty bitmap, as far as its list is there. */
function bitmapPlaces(data: Buffer): number[] {
  if (data.length < BITMAP_BYTES) return [];
  const view = new DataView(data.buffer, data.byteOffset, data.length);
  const count = Math.min(view.getUint32(28, true), Math.floor((data.length - BITMAP_BYTES) / 8));
  const entries = Array.from({ length: count }, (_, i) => readU64LE(view, BITMAP_BYTES + i * 8));
  return entries.filter((entry) => entry > 1).map((entry) => entry * SECTOR_BYTES);
}

function magicAt(bytes: Buffer, at: number): string {
  return bytes.readBigUInt64LE(at).toString(16).padStart(16, '0');
}

/** @throws ImgfuseError unsupported */
export function assertDroppable({ path }: HostFile, header: ParallelsHeader, extension: Extension | null): void {
  if (extension?.keeps == null) return;
  const sentence = `${path}: its format extension at ${hex(header.extension)} ${extension.keeps}, so the image is not written; mount it with -o ro, or with -o overlay=FILE, which takes the changes`;
  throw new ImgfuseError('unsupported', sentence, { path, offset: header.extension });
}
