// What the status of a mount says of the disk's content: its partition table, and what partitions contain. Invariant: names and
// labels come from the guest and are hostile text; they are strings of JSON here and go nowhere else.

import { askBlkid, mergeBlkid } from '../../guest/blkid.ts';
import type { Content } from '../../guest/partitions/index.ts';
import type { DiskReport } from './disk-inspector.ts';

/** All of blkid together; what it has not told by then it does not tell. */
const BLKID_MS = 1000;
/** Processes at a time. */
const BLKID_PROCESSES = 4;

export interface ContentStatus {
  /** as blkid calls it */
  readonly type: string;
  readonly label: string | null;
  readonly uuid: string | null;
}

export interface PartitionStatus {
  /** as Linux counts them; the file is partitions/NUMBER.raw */
  readonly number: number;
  /** bytes, as size */
  readonly start: number;
  readonly size: number;
  readonly type: string;
  readonly 'type-name': string | null;
  readonly name: string | null;
  readonly uuid: string | null;
  readonly bootable: boolean;
  /** null: nothing that is known */
  readonly content: ContentStatus | null;
}

export interface TableStatus {
  /** null: the disk has none that can be read */
  readonly scheme: 'gpt' | 'dos' | null;
  readonly 'sector-size': number;
  readonly id: string | null;
  readonly warnings: readonly string[];
}

/** Absent as a whole if the disk could not be looked at in time. */
export interface GuestStatus {
  readonly table?: TableStatus;
  readonly partitions?: readonly PartitionStatus[];
  /** of a disk without a table, as a whole */
  readonly content?: ContentStatus | null;
}

/**
 * @param diskFile where blkid finds the disk; null: it is not asked. It is asked only about what our own table does not know, because
 * it opens the disk: for a moment nobody could open a partition for writing.
 */
export async function guestStatus(report: DiskReport, diskFile: string | null): Promise<GuestStatus> {
  const { table, partitions } = report;
  const isUnknown = ({ content, size }: { content: Content | null; size: number }) => content === null && size > 0;
  const unknown = partitions.filter(isUnknown);
  const known = new Map<number, Content | null>();
  const end = performance.now() + BLKID_MS;
  const ask = async (): Promise<void> => {
    for (let each = unknown.shift(); each !== undefined; each = unknown.shift()) {
      const left = end - performance.now();
      if (left <= 0) return;
      const answer = await askBlkid({ path: diskFile!, offset: each.start, size: each.size }, left);
      if (answer.kind === 'unavailable') return;
      known.set(each.number, mergeBlkid(null, answer));
    }
  };
  if (diskFile !== null) await Promise.all(Array.from({ length: BLKID_PROCESSES }, ask));
  return {
    table: { scheme: table.scheme, 'sector-size': table.sectorSize, id: table.id, warnings: table.warnings },
    partitions: partitions.map(({ number, start, size, type, typeName, name, uuid, bootable, content }) => ({
      ...{ number, start, size, type, 'type-name': typeName, name, uuid, bootable },
      content: contentStatus(content ?? known.get(number) ?? null),
    })),
    ...(table.scheme === null ? { content: contentStatus(report.content) } : {}),
  };
}

function contentStatus(content: Content | null): ContentStatus | null {
  return content === null ? null : { type: content.type, label: content.label, uuid: content.uuid };
}
