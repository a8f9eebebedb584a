// Full bitmaps for an image that has no parent any more. Clear bits mean zeros then, but QEMU ignores them and shows what lies there:
// a crash may have left data whose bits were not written. So the zeros are written, durably, before the bits are set; a crash on the
// way leaves clear bits, which are right as well.

import { type HostOffset, hostOffset, SECTOR_BYTES } from '../../bytes/offsets.ts';
import type { HostFile } from '../../host/host-file.ts';
import { bitmapBytesOf } from './header/header.ts';

/** Bitmaps that are written after one fdatasync, in bytes. */
const BATCH_BYTES = 1024 * 1024;

/** A bitmap that has every bit of its block, and none behind them. */
export function fullBitmap(blockSize: number): Uint8Array {
  const sectors = blockSize / SECTOR_BYTES;
  const bits = new Uint8Array(bitmapBytesOf(blockSize));
  const whole = Math.floor(sectors / 8);
  bits.fill(0xff, 0, whole);
  if (sectors % 8 !== 0) bits[whole] = (0xff00 >>> (sectors % 8)) & 0xff;
  return bits;
}

/** @param starts sectors at which blocks begin */
export function fillBitmaps(file: HostFile, blockSize: number, starts: Iterable<number>): void {
  const full = fullBitmap(blockSize);
  const bits = new Uint8Array(full.length);
  let batch: HostOffset[] = [];
  const finish = (): void => {
    if (batch.length === 0) return;
    file.sync();
    for (const host of batch) file.write(full, 0, full.length, host);
    batch = [];
  };
  for (const sector of starts) {
    const host = hostOffset(sector * SECTOR_BYTES);
    file.read(bits, 0, bits.length, host);
    if (!zeroWhatIsNotHere(file, bits, blockSize / SECTOR_BYTES, host)) continue;
    batch.push(host);
    if (batch.length * full.length >= BATCH_BYTES) finish();
  }
  finish();
  file.sync();
}

/** @returns whether a sector of the block is not here */
function zeroWhatIsNotHere(file: HostFile, bits: Uint8Array, sectors: number, host: HostOffset): boolean {
  const isHere = (sector: number): boolean => (bits[sector >>> 3]! & (0x80 >>> (sector & 7))) !== 0;
  let isPartial = false;
  for (let at = 0; at < sectors; ) {
    const start = at;
    while (at < sectors && !isHere(at)) at++;
    if (at > start) {
      isPartial = true;
      file.punchHole(hostOffset(host + bits.length + start * SECTOR_BYTES), (at - start) * SECTOR_BYTES);
    } else at++;
  }
  return isPartial;
}
