// The footer of a fixed VHD whose resize was cut short: the file is longer already, and what lies at its end is no footer yet. The
// old one lies where its own disk ends, so it says itself that it is meant, and nothing but zeros follows it: what a repair cuts off
// is no data. Looked for only if there is no other footer.

import { hostOffset, roundUp, SECTOR_BYTES } from '../../../bytes/offsets.ts';
import type { HostFile } from '../../../host/host-file.ts';
import { currentSizeOf, FIXED, FOOTER_BYTES, type Footer, parseFooter } from './footer.ts';

/** Stretches of data that are passed over to find the last one. */
const MAX_STRETCHES = 100_000;
/** Searched before the end of the last data: holes begin at pages of the host. */
const SEARCHED_BYTES = 64 * 1024;

/** The footer of a fixed disk that is the last data of the file, and lies where its disk ends; null if there is none. */
export function findMovedFooter(file: HostFile): Footer | null {
  const end = roundUp(endOfData(file), SECTOR_BYTES);
  const start = Math.max(0, end - SEARCHED_BYTES);
  const bytes = new Uint8Array(end - start);
  const got = file.read(bytes, 0, bytes.length, hostOffset(start));
  for (let at = Math.floor(got / SECTOR_BYTES) * SECTOR_BYTES - FOOTER_BYTES; at >= 0; at -= SECTOR_BYTES) {
    const sector = bytes.subarray(at, at + FOOTER_BYTES);
    if (sector.every((byte) => byte === 0)) continue;
    const footer = parseFooter(sector);
    const isMeant = footer?.isSound === true && footer.type === FIXED;
    return isMeant && currentSizeOf(footer.bytes) === start + at ? footer : null;
  }
  return null;
}

function endOfData(file: HostFile): number {
  const size = file.size();
  let end = 0;
  for (let stretches = 0; stretches < MAX_STRETCHES; stretches++) {
    const data = file.seekData(hostOffset(end));
    if (data >= size) break;
    end = file.seekHole(hostOffset(data));
    if (end >= size) break;
  }
  return end;
}
