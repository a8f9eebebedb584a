// Names another parent in a dynamic or differencing VHD, or none. What the image says of its parent fills both sectors of the header,
// and the type of the disk stands in the footers. All of it changes with one sector, the copy of the footer at offset 0, because
// that says where the header is (S is a fdatasync):
//
//   name, new header where nothing is -> S -> footers lead there -> S   the old parent before the copy at 0 is written, the new one after
//   the header at its old place -> S -> footers lead back -> S          programs look for it right behind the copy of the footer
//
// The footers change as in a resize: at any moment one of them is right, or both are the same. Without a parent clear bits of blocks
// mean zeros, which full-bitmaps.ts then writes for programs that ignore bits.

import { hostOffset, roundUp, SECTOR_BYTES } from '../../bytes/offsets.ts';
import { ImgfuseError } from '../../errors/index.ts';
import { plural } from '../../errors/plural.ts';
import type { HostFile } from '../../host/host-file.ts';
import type { BackingReference, ParentFacts } from '../image-format.ts';
import { cutTail } from './check/repair.ts';
import { checkTable, gapsIn, type Stretch, type TableCheck } from './check/table-walk.ts';
import { fillBitmaps } from './full-bitmaps.ts';
import { DIFFERENCING, DYNAMIC, FOOTER_BYTES, footerOfHeader, NO_UUID } from './header/footer.ts';
import { bitmapBytesOf, HEADER_BYTES, headerWithParent } from './header/header.ts';
import { FAULTS, isSparse, readLayout, type SparseLayout } from './header/layout.ts';
import { faultOf } from './header/locator.ts';
import { storeParent } from './header/stored-parent.ts';

const REFUSAL = 'is not rebased';
/** Where programs that do not ask the footer look for the header. */
const HOME = FOOTER_BYTES;

/** @throws ImgfuseError usage, corrupt: nothing is changed then */
export function setVpcBacking(file: HostFile, backing: BackingReference | null, parent?: ParentFacts): void {
  const layout = readLayout(file);
  if (!isSparse(layout)) {
    if (backing === null) return;
    throw new ImgfuseError('usage', `${file.path} ${REFUSAL}: a fixed VHD has no backing file`, { path: file.path });
  }
  const { type, uuid } = layout.footer;
  if (backing === null && type === DYNAMIC) return;
  if (backing !== null && parent?.identity === uuid && uuid !== NO_UUID) {
    const why = `its backing file ${backing.name} has the same UUID, as a copy of it has, and a VHD knows its parent by that`;
    throw new ImgfuseError('usage', `${file.path} ${REFUSAL}: ${why}`, { path: file.path });
  }
  new ParentChange(file, layout).run(backing, parent);
}

class ParentChange {
  private readonly file: HostFile;
  private readonly layout: SparseLayout;
  private readonly found: TableCheck;
  private trailerOffset: number;
  private footer: Uint8Array;

  constructor(file: HostFile, layout: SparseLayout) {
    this.file = file;
    this.layout = layout;
    this.found = checkTable(file, layout, { repair: 'none', log: () => undefined });
    this.assertSound();
    this.trailerOffset = layout.trailerOffset;
    this.footer = layout.footer.bytes;
  }

  run(backing: BackingReference | null, facts: ParentFacts | undefined): void {
    const { file } = this;
    const { header } = this.layout;
    let room = { at: 0, isNew: false };
    let nameBytes = 0;
    const place = (bytes: number): number => {
      nameBytes = bytes;
      room = this.roomFor(bytes + HEADER_BYTES);
      return room.at;
    };
    const stored = backing === null ? null : storeParent(file.path, REFUSAL, backing, facts, place);
    if (stored === null) place(0);
    const old = new Uint8Array(HEADER_BYTES);
    file.read(old, 0, HEADER_BYTES, hostOffset(header.offset));
    const bytes = headerWithParent(old, stored);
    if (room.isNew) this.lengthen(room.at + nameBytes + HEADER_BYTES);
    // that the block which lay in a gap is gone need not be durable (R5)
    else file.sync();
    if (stored !== null) file.write(stored.data, 0, nameBytes, hostOffset(room.at));
    const type = backing === null ? DYNAMIC : DIFFERENCING;
    // its old place cannot be written before nothing leads there; a crash may have left it elsewhere
    const home = header.offset !== HOME && this.isFree(HOME, HEADER_BYTES) ? HOME : header.offset;
    const places = home === header.offset ? [room.at + nameBytes, home] : [home];
    for (const at of places) {
      file.write(bytes, 0, HEADER_BYTES, hostOffset(at));
      file.sync();
      this.setFooters(footerOfHeader(this.footer, type, at));
    }
    if (backing === null) fillBitmaps(file, header.blockSize, this.found.starts);
    if (room.isNew) cutTail(file, this.footer, nameBytes === 0 ? this.found.usedEnd : room.at + nameBytes);
  }

  /** A name that leads nowhere is what a new one is good for; any other damage could be what lies in a gap. */
  private assertSound(): void {
    const { file, found, layout } = this;
    const { path } = file;
    const lost = layout.header.locators.filter((locator) => faultOf(locator, file.size()) !== null).length;
    const fault = layout.faults[0];
    if (fault === undefined && found.report.corruptions === lost) return;
    const what =
      fault === undefined ? `its table has ${plural(found.report.corruptions - lost, 'error')}` : FAULTS[fault].what;
    throw new ImgfuseError('corrupt', `${path} ${REFUSAL}: ${what}; repair a copy with imgfuse check -r all`, { path });
  }

  private *gaps(): Generator<Stretch> {
    const { found, layout } = this;
    const { blockSize } = layout.header;
    yield* gapsIn(found, bitmapBytesOf(blockSize) + blockSize);
    yield { start: found.usedEnd, end: layout.trailerOffset };
  }

  private isFree(start: number, bytes: number): boolean {
    for (const gap of this.gaps()) if (gap.start <= start && gap.end >= start + bytes) return true;
    return false;
  }

  /** The first gap with so much room, or what lies behind the end of the file. */
  private roomFor(bytes: number): { readonly at: number; readonly isNew: boolean } {
    for (const { start, end } of this.gaps()) {
      const at = roundUp(start, SECTOR_BYTES);
      if (at + bytes <= end) return { at, isNew: false };
    }
    return { at: roundUp(this.file.size(), SECTOR_BYTES), isNew: true };
  }

  /** The footer stands at the new end too; the old one is not touched before that is durable. */
  private lengthen(end: number): void {
    const { file, footer } = this;
    const length = file.size();
    try {
      file.truncate(end + FOOTER_BYTES);
      file.write(footer, 0, FOOTER_BYTES, hostOffset(end));
    } catch (error) {
      file.truncate(length);
      throw error;
    }
    file.sync();
    this.trailerOffset = end;
  }

  private setFooters(footer: Uint8Array): void {
    const { file, trailerOffset } = this;
    const put = (bytes: Uint8Array, at: number): void => {
      file.write(bytes, 0, FOOTER_BYTES, hostOffset(at));
      file.sync();
    };
    put(new Uint8Array(FOOTER_BYTES), trailerOffset);
    put(footer, 0);
    put(footer, trailerOffset);
    this.footer = footer;
  }
}
