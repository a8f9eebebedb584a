// Repair of directories and tables. Each directory entry with something wrong is taken up once, with its table in both copies:
//
//   an entry that can be true stays; the first copy counts, because it is the one that most programs read
//   where the first copy says what cannot be true, the second one counts, if it leads to a grain that nobody else uses; and so it does
//   where the first one says nothing, in an extent that was closed clean: the second copy may be behind in one that was not
//   where both are wrong the entry becomes 0; its old value is told
//   of two references to one grain the second gets a copy of it, so that both keep their data
//   a table that is missing in one directory becomes a copy of the other
//
// What an entry will refer to is durable before the entry is written; both copies of a table are equal afterwards.

import { hex, hostOffset, roundUp, SECTOR_BYTES } from '../../../../bytes/offsets.ts';
import { SparseBitmap } from '../../../../bytes/sparse-bitmap.ts';
import type { HostFile } from '../../../../host/host-file.ts';
import { MAX_FILE_BYTES, tooLong } from '../../../mapped/space/room-end.ts';
import { ENTRY_BYTES } from '../header.ts';
import type { TableLayout } from '../layout.ts';
import { Directories, readEntries, type TablePair, type TableWalk } from './table-walk.ts';

const COPY_BYTES = 1024 * 1024;

/** @param found by the walk of this file @param log one sentence for each repair */
export function repairTables(
  file: HostFile,
  layout: TableLayout,
  found: TableWalk,
  log: (sentence: string) => void,
): void {
  new Repair(file, layout, found, log).run();
}

class Repair {
  private readonly file: HostFile;
  private readonly layout: TableLayout;
  private readonly found: TableWalk;
  private readonly log: (sentence: string) => void;
  private readonly directories: Directories;
  /** grains that entries refer to after the repair, as far as it has come */
  private readonly taken: SparseBitmap;
  private readonly grainSectors: number;
  private readonly tableBytes: number;
  /** before the repair */
  private readonly fileBytes: number;
  private readonly fileSectors: number;
  /** where the next copy goes */
  private end: number;

  constructor(file: HostFile, layout: TableLayout, found: TableWalk, log: (sentence: string) => void) {
    this.file = file;
    this.layout = layout;
    this.found = found;
    this.log = log;
    this.directories = new Directories(file, layout);
    this.grainSectors = layout.grainBytes / SECTOR_BYTES;
    this.tableBytes = layout.tableEntries * ENTRY_BYTES;
    this.fileBytes = file.size();
    this.fileSectors = Math.ceil(this.fileBytes / SECTOR_BYTES);
    this.taken = new SparseBitmap(this.fileSectors);
    this.end = roundUp(Math.max(this.fileBytes, found.usedEnd), layout.grainBytes);
  }

  run(): void {
    const { file, found } = this;
    if (found.cutEnd > 0) {
      file.truncate(found.cutEnd);
      file.sync();
    }
    this.directories.mark(() => undefined);
    this.directories.forEachPair((pair) => {
      if (found.damaged.has(pair.directoryIndex)) this.appendBehind(pair.second);
    });
    this.directories.forEachPair((pair) => {
      if (found.damaged.has(pair.directoryIndex)) this.repairPair(pair);
      else this.take(pair.table);
    });
    file.sync();
  }

  /** The walk knows the grains of first tables only: those of a second one may come back, and the file may end inside them. */
  private appendBehind(second: number): void {
    if (second === 0) return;
    const { grainBytes, tableEntries } = this.layout;
    for (const entry of readEntries(this.file, second, tableEntries)) {
      if (this.isPlace(entry)) this.end = Math.max(this.end, roundUp(entry * SECTOR_BYTES + grainBytes, grainBytes));
    }
  }

  /** A sound table: its grains are in use. */
  private take(table: number): void {
    if (table === 0) return;
    for (const entry of readEntries(this.file, table, this.layout.tableEntries)) {
      if (entry > 1) this.taken.addRun(entry, this.grainSectors);
    }
  }

  private repairPair({ directoryIndex, second, table }: TablePair): void {
    const { file, layout } = this;
    const read = (offset: number) => (offset === 0 ? null : readEntries(file, offset, layout.tableEntries));
    const [entries, copies] = [read(table), read(second)];
    const repaired = new Uint32Array(layout.tableEntries);
    for (let index = 0; index < repaired.length; index++) {
      repaired[index] = this.resolve(directoryIndex, index, entries?.[index] ?? null, copies?.[index] ?? null);
    }
    // copies of grains are durable before entries lead to them
    file.sync();
    this.put(layout.directoryOffset, directoryIndex, table, entries, repaired);
    if (layout.redundantOffset !== 0) this.put(layout.redundantOffset, directoryIndex, second, copies, repaired);
  }

  /** @returns the entry that both copies get @param first null: there is no such table */
  private resolve(directoryIndex: number, index: number, first: number | null, second: number | null): number {
    const { taken, grainSectors } = this;
    const guest = (directoryIndex * this.layout.tableEntries + index) * this.layout.grainBytes;
    const say = (what: string): void =>
      this.log(
        `Repaired grain table entry ${index} of table ${directoryIndex} (guest offset ${hex(guest)} of the extent): ${what}`,
      );
    const isFirstPlace = first !== null && this.isPlace(first);
    if (isFirstPlace && !taken.hasAny(first, grainSectors)) {
      taken.addRun(first, grainSectors);
      if (second !== null && second !== first) say(`the second table said sector ${hex(second)}`);
      return first;
    }
    const mayCount = !this.layout.isUnclean || first === null || !this.isWord(first);
    const isSecondFree =
      second !== null && mayCount && this.isPlace(second) && !this.found.used.hasAny(second, grainSectors);
    if (isSecondFree && !taken.hasAny(second, grainSectors)) {
      taken.addRun(second, grainSectors);
      if (second !== first) say(`it is sector ${hex(second)}, as in the second table`);
      return second;
    }
    if (isFirstPlace) {
      const copy = this.copyGrain(first);
      say(`the grain at sector ${hex(first)} is used twice; this user has a copy at sector ${hex(copy)} now`);
      return copy;
    }
    const meaning = [first, second].find((entry) => entry !== null && this.isWord(entry)) ?? 0;
    for (const [which, entry] of [first, second].entries()) {
      if (entry === null || entry === meaning) continue;
      say(`it was sector ${hex(entry)} in the ${which === 0 ? 'first' : 'second'} table, and is ${meaning} now`);
    }
    return meaning;
  }

  private isPlace(entry: number): boolean {
    if (entry === 0 || (entry === 1 && this.layout.hasZeroGrains) || entry >= this.fileSectors) return false;
    return !this.found.metadata.hasAny(entry, this.grainSectors);
  }

  /** Unallocated or zeros. */
  private isWord(entry: number): boolean {
    return entry === 0 || (entry === 1 && this.layout.hasZeroGrains);
  }

  /** @returns the sector of the copy */
  private copyGrain(sector: number): number {
    const { file, layout } = this;
    const from = sector * SECTOR_BYTES;
    const end = Math.min(from + layout.grainBytes, this.fileBytes);
    const to = this.append(layout.grainBytes);
    const buffer = new Uint8Array(Math.min(COPY_BYTES, layout.grainBytes));
    // a damaged header may say 1 GiB: holes, and what the file does not have, read as zeros in the copy, too
    for (let at = file.seekData(hostOffset(from)); at < end; at = file.seekData(hostOffset(at))) {
      const stop = Math.min(file.seekHole(hostOffset(at)), end, at + buffer.length);
      const part = file.read(buffer, 0, stop - at, hostOffset(at));
      if (part === 0) break;
      file.write(buffer, 0, part, hostOffset(to + at - from));
      at = stop;
    }
    this.taken.addRun(to / SECTOR_BYTES, this.grainSectors);
    return to / SECTOR_BYTES;
  }

  /** Room behind everything. */
  private append(bytes: number): number {
    const at = this.end;
    const end = roundUp(at + bytes, this.layout.grainBytes);
    if (end > MAX_FILE_BYTES) throw tooLong(this.file.path);
    this.file.truncate(end);
    this.end = end;
    return at;
  }

  /** One copy of a table; where there is none it gets a place, and a directory entry once it is durable. */
  private put(directory: number, index: number, table: number, before: Uint32Array | null, entries: Uint32Array): void {
    if (before !== null && Buffer.compare(Buffer.from(before.buffer), Buffer.from(entries.buffer)) === 0) return;
    const { file } = this;
    const isShared = before === null && directory === this.layout.redundantOffset && this.leadsToFirst(index);
    if (isShared) return;
    const to = table === 0 ? this.append(this.tableBytes) : table;
    this.write(to, entries);
    file.sync();
    if (table !== 0) return;
    const [old] = readEntries(file, directory + index * ENTRY_BYTES, 1);
    this.write(directory + index * ENTRY_BYTES, Uint32Array.of(to / SECTOR_BYTES));
    file.sync();
    this.log(
      `Repaired directory entry ${index}: it was sector ${hex(old!)}, and has a table at sector ${hex(to / SECTOR_BYTES)} now`,
    );
  }

  /** The second directory refers to the table of the first, which is sound. */
  private leadsToFirst(index: number): boolean {
    const { directoryOffset, redundantOffset } = this.layout;
    const [first] = readEntries(this.file, directoryOffset + index * ENTRY_BYTES, 1);
    const [second] = readEntries(this.file, redundantOffset + index * ENTRY_BYTES, 1);
    return first === second;
  }

  private write(at: number, entries: Uint32Array): void {
    const bytes = new Uint8Array(entries.length * ENTRY_BYTES);
    const view = new DataView(bytes.buffer);
    for (const [i, entry] of entries.entries()) view.setUint32(i * ENTRY_BYTES, entry, true);
    this.file.write(bytes, 0, bytes.length, hostOffset(at));
  }
}
