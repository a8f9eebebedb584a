// The partitions that the tree shows, as the partition table said when somebody looked last. The table is read at a look, and only
// if a change may have touched it: programs write it in pieces. Invariants: while a file of a partition is open, partitions stay as
// they are; one that begins or ends elsewhere than before is another node.

import { formatSize } from '../bytes/format-size.ts';
import { guestOffset } from '../bytes/offsets.ts';
import type { VirtualDisk } from '../disk/index.ts';
import { ImgfuseError } from '../errors/index.ts';
import { type PartitionSource, type PartitionTable, readPartitionTable } from '../guest/partitions/index.ts';
import type { Handles } from './handles.ts';
import { DISK_NODE } from './nodes.ts';
import { RecordTable } from './records.ts';
import { TableWatch, type WatchedRange } from './table-watch.ts';
import { handlesOf, type SharedTree, TreeWords } from './tree-state.ts';

/** The disk as the parser of partition tables reads it. */
export function sourceOf(disk: VirtualDisk): PartitionSource {
  return {
    size: disk.size(),
    read: (target, offset) => {
      disk.read(target, 0, target.length, guestOffset(offset));
    },
  };
}

/** Where a partition lies. @throws ImgfuseError missing: there is none of that number, but there may be others */
export function findPartition(disk: VirtualDisk, number: number): { readonly start: number; readonly size: number } {
  const { partitions, warnings } = readPartitionTable(sourceOf(disk));
  const found = partitions.find((partition) => partition.number === number);
  if (found !== undefined) return { start: found.start, size: found.size };
  const there = partitions.map((partition) => `${partition.number} (${formatSize(partition.size)})`).join(', ');
  const what = there === '' ? 'it has no partition table that can be read' : `its partitions are ${there}`;
  const sentence = [`${disk.path} has no partition ${number}: ${what}`, ...warnings].join('; ');
  throw new ImgfuseError('missing', sentence, { path: disk.path });
}

/** Whether the files are those of that table, which was just read: while one of them is open they stay as they are. */
export function showsTable(tree: SharedTree, disk: VirtualDisk, { partitions }: PartitionTable): boolean {
  const records = new RecordTable(tree.records);
  const parts = { records, handles: handlesOf(tree), table: new TableWatch(tree.table), words: new TreeWords(tree) };
  const shown = new Partitions({ ...parts, model: DISK_NODE }).list(disk);
  return (
    shown.length === partitions.length &&
    partitions.every(({ number, start, size }) =>
      shown.some((record) => records.shows(record, number, start, start + size)),
    )
  );
}

export interface PartitionsParts {
  readonly records: RecordTable;
  readonly handles: Handles;
  readonly table: TableWatch;
  readonly words: TreeWords;
  /** the record that new partitions have their owner, mode and times from */
  readonly model: number;
  /** told what is damaged in a table that was read */
  readonly noteWarning?: (sentence: string) => void;
}

export class Partitions {
  private readonly parts: PartitionsParts;

  constructor(parts: PartitionsParts) {
    this.parts = parts;
  }

  /** The record of each partition, ordered by number. */
  list(disk: VirtualDisk): readonly number[] {
    this.refresh(disk);
    const { records } = this.parts;
    return this.shown().sort((one, other) => records.partition(one) - records.partition(other));
  }

  /** The record of a partition; undefined if there is none of that number. */
  find(disk: VirtualDisk, number: number): number | undefined {
    this.refresh(disk);
    const { records } = this.parts;
    return this.shown().find((record) => records.partition(record) === number);
  }

  /** The record of a node that was found before; undefined if the partition is another one by now, or gone. */
  recordOf(node: number): number | undefined {
    const { records } = this.parts;
    return this.shown().find((record) => records.node(record) === node);
  }

  private shown(): number[] {
    const { records } = this.parts;
    return [...records.partitions()].filter((record) => records.node(record) !== 0);
  }

  private refresh(disk: VirtualDisk): void {
    const { handles, table } = this.parts;
    table.refresh((): readonly WatchedRange[] | null => {
      // reading is in vain while one of them is open
      if (!handles.whileClosed(this.shown(), () => undefined)) return null;
      const found = readPartitionTable(sourceOf(disk));
      if (!handles.whileClosed(this.shown(), () => this.show(found))) return null;
      for (const each of found.warnings) this.parts.noteWarning?.(each);
      return found.looked;
    });
  }

  /** Partitions that are where they were keep their records. */
  private show({ partitions }: PartitionTable): void {
    const { records } = this.parts;
    const keep = new Set<number>();
    const added = partitions.filter(({ number, start, size }) => {
      const same = this.shown().find((record) => records.shows(record, number, start, start + size));
      if (same !== undefined) keep.add(same);
      return same === undefined;
    });
    for (const record of this.shown()) if (!keep.has(record)) records.clear(record);
    const free = [...records.partitions()].filter((record) => records.node(record) === 0);
    for (const { number, start, size } of added) {
      const record = free.shift();
      if (record === undefined) break;
      this.add(record, number, start, start + size);
    }
  }

  private add(record: number, number: number, start: number, end: number): void {
    const { records, words, model } = this.parts;
    const { mode, uid, gid, atimeMs, mtimeMs, ctimeMs } = records.attributes(model);
    Object.assign(records.attributes(record), { mode, uid, gid, atimeMs, mtimeMs, ctimeMs });
    records.assign(record, words.newPartitionNode(), start, end, number);
  }
}
