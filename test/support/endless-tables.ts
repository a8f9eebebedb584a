// Images of terabytes that cost no memory: one page is read wherever an L2 table lies.

import { type HostOffset, hostOffset, roundUp } from '../../src/bytes/offsets.ts';
import { qcow2 } from '../../src/format/qcow2/index.ts';
import { qed } from '../../src/format/qed/index.ts';
import { MemoryHostFile } from './memory-file.ts';
import { createMemoryImage } from './memory-images.ts';
import { COPIED, put32, put64 } from './qcow2-bytes.ts';

const CLUSTER = 65_536;
export const TIB = 1024 ** 4;

/** Fills one page of an L2 table. @param entry of its first entry among all of the disk @param data offset of a data cluster */
export type FillPage = (page: DataView, entry: number) => void;

class TableFile extends MemoryHostFile {
  tablesAt = 0;
  tablesEnd = 0;
  private readonly fill: FillPage;

  constructor(fill: FillPage) {
    super();
    this.fill = fill;
  }

  override read(target: Uint8Array, targetOffset: number, length: number, offset: HostOffset): number {
    if (offset < this.tablesAt || offset >= this.tablesEnd) return super.read(target, targetOffset, length, offset);
    this.fill(new DataView(target.buffer, target.byteOffset + targetOffset, length), (offset - this.tablesAt) / 8);
    return length;
  }

  override seekData(offset: HostOffset): number {
    return this.isTableOrBehind(offset) ? offset : super.seekData(offset);
  }

  override seekHole(offset: HostOffset): number {
    return this.isTableOrBehind(offset) ? this.size() : super.seekHole(offset);
  }

  /** What lies behind the tables is data clusters, as far as the host can tell. */
  private isTableOrBehind(offset: number): boolean {
    return offset >= this.tablesAt && offset < this.size();
  }
}

/** @param perTable entries of an L2 table @param dataBytes of data clusters behind the tables, which begin at `dataAt` */
function layOut(file: TableFile, tables: number, putL1: (index: number, table: number) => void): TableFile {
  file.tablesAt = roundUp(file.size(), CLUSTER);
  file.tablesEnd = file.tablesAt + tables * CLUSTER;
  for (let index = 0; index < tables; index++) putL1(index, file.tablesAt + index * CLUSTER);
  return file;
}

function copyOf(from: MemoryHostFile, fill: FillPage): TableFile {
  const file = new TableFile(fill);
  const bytes = new Uint8Array(from.size());
  from.read(bytes, 0, bytes.length, hostOffset(0));
  file.write(bytes, 0, bytes.length, hostOffset(0));
  return file;
}

export function qedOf(size: number, fill: FillPage): TableFile {
  const file = copyOf(createMemoryImage(qed, size, { table_size: '1' }), fill);
  const tables = Math.ceil(size / ((CLUSTER / 8) * CLUSTER));
  layOut(file, tables, (index, table) => {
    const bytes = Buffer.alloc(8);
    bytes.writeBigUInt64LE(BigInt(table));
    file.write(bytes, 0, 8, hostOffset(CLUSTER + index * 8));
  });
  file.truncate(file.tablesEnd + size);
  return file;
}

/** For reading: what is added has no counters. @param entryBytes 16 with extended L2 entries */
export function qcow2Of(size: number, fill: FillPage, entryBytes = 8): TableFile {
  const options = entryBytes === 16 ? { extended_l2: 'on' } : {};
  const file = copyOf(createMemoryImage(qcow2, size, options), fill);
  const tables = Math.ceil(size / ((CLUSTER / entryBytes) * CLUSTER));
  const l1 = roundUp(file.size(), CLUSTER);
  file.truncate(l1 + roundUp(tables * 8, CLUSTER));
  put32(file, 36, tables);
  put64(file, 40, l1);
  layOut(file, tables, (index, table) => put64(file, l1 + index * 8, COPIED | BigInt(table)));
  file.truncate(file.tablesEnd + size);
  return file;
}
