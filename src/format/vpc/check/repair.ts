// Repairs of footers and of the header's checksum. Each is one write of a sector, durable before the next: a crash on the way leaves
// what the next open or check repairs as well.

import { hostOffset, roundUp, SECTOR_BYTES } from '../../../bytes/offsets.ts';
import type { HostFile } from '../../../host/host-file.ts';
import { FOOTER_BYTES, FOOTER_CHECKSUM, sign } from '../header/footer.ts';
import { HEADER_BYTES, resignedHeader } from '../header/header.ts';
import type { Fault, Layout } from '../header/layout.ts';

/** Faults whose repair writes a footer at the end of a file that has none there. */
export const AT_THE_END: readonly Fault[] = ['trailer', 'footer-checksum'];

/** @param usedEnd end of what the file has, its footer aside @param faults those to be repaired */
export function repairLayout(file: HostFile, layout: Layout, usedEnd: number, faults = layout.faults): void {
  for (const fault of faults) REPAIRS[fault](file, layout, usedEnd);
}

const REPAIRS: Readonly<Record<Fault, (file: HostFile, layout: Layout, usedEnd: number) => void>> = {
  trailer: (file, layout, usedEnd) => {
    if (layout.header === null) cutAfterFooter(file, layout);
    else put(file, layout.footer.bytes, placeOfTrailer(file, usedEnd));
  },
  copy: (file, layout) => put(file, layout.footer.bytes, 0),
  unequal: (file, layout) => {
    put(file, layout.footer.bytes, layout.trailerOffset);
    put(file, layout.footer.bytes, 0);
  },
  'footer-checksum': (file, layout, usedEnd) => {
    const bytes = sign(layout.footer.bytes.slice(), FOOTER_CHECKSUM);
    if (layout.header === null) {
      put(file, bytes, layout.trailerOffset, file.size() - layout.trailerOffset);
      return;
    }
    put(file, bytes, placeOfTrailer(file, usedEnd));
    put(file, bytes, 0);
  },
  'header-checksum': (file, layout) => {
    const { offset } = layout.header!;
    const header = new Uint8Array(HEADER_BYTES);
    file.read(header, 0, HEADER_BYTES, hostOffset(offset));
    put(file, resignedHeader(header), offset, HEADER_BYTES);
  },
};

/** The last sector of the file, if nothing else is there; else behind it. */
function placeOfTrailer(file: HostFile, usedEnd: number): number {
  const size = file.size();
  const last = size - FOOTER_BYTES;
  return size % SECTOR_BYTES === 0 && usedEnd <= last ? last : roundUp(Math.max(size, usedEnd), SECTOR_BYTES);
}

/** A fixed disk whose resize was cut short has its footer already, where the disk ends. */
function cutAfterFooter(file: HostFile, { trailerOffset }: Layout): void {
  file.sync();
  file.truncate(trailerOffset + FOOTER_BYTES);
  file.sync();
}

function put(file: HostFile, bytes: Uint8Array, at: number, length = FOOTER_BYTES): void {
  file.write(bytes, 0, length, hostOffset(at));
  file.sync();
}

/** Cuts off what a crash left behind the last block: the footer there -> fdatasync -> cut -> fdatasync. */
export function cutTail(file: HostFile, footer: Uint8Array, usedEnd: number): void {
  // what refers to the tail no more need not do so durably: the process that removed an entry may have been killed (R5)
  file.sync();
  const end = roundUp(usedEnd, SECTOR_BYTES);
  put(file, footer, end);
  file.truncate(end + FOOTER_BYTES);
  file.sync();
}
