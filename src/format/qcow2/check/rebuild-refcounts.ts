// Writes new refcount structures for an image whose own are unusable: blocks and a table with the counts of the walk, after
// the end of the file, where no entry refers to. They are durable before one write to the header switches to them. A crash
// before that write leaves the old structures and a longer file; a crash after it leaves the new ones. The clusters of the
// old structures are free afterwards.

import { writeU64BE } from '../../../bytes/endian.ts';
import { hex, hostOffset, roundUp } from '../../../bytes/offsets.ts';
import { ImgfuseError } from '../../../errors/index.ts';
import type { HostFile } from '../../../host/host-file.ts';
import { writeCounter } from '../counters/refcount.ts';
import { REFCOUNT_TABLE_ENTRY_BYTES } from '../geometry.ts';
import { QCOW_MAX_REFTABLE_SIZE, type Qcow2Header, writeRefcountTableFields } from '../header/header.ts';
import type { ReferenceWalk } from './reference-walk.ts';

/** Where the new structures lie: the blocks first, then the table. */
interface Layout {
  /** first cluster */
  readonly start: number;
  /** indices of the blocks, ascending */
  readonly blocks: readonly number[];
  readonly tableClusters: number;
}

/**
 * Writes the new structures, and updates the counts and counters of `walk` to match.
 * @throws ImgfuseError limit, corrupt, or the error of the host
 */
export function rebuildRefcounts(
  file: HostFile,
  header: Qcow2Header,
  walk: ReferenceWalk,
  log: (sentence: string) => void,
): void {
  const { counters, geometry } = walk;
  const { counts, refcountUses } = walk.uses;
  const { clusterSize, refcountBits, refcountMax, refcountsPerBlock } = geometry;
  keepCountersOfUnfollowed(walk);
  for (const { start, end } of refcountUses.ranges()) {
    for (let cluster = start; cluster < end; cluster++) {
      const uses = refcountUses.get(cluster);
      if (uses === 0) continue;
      counts.set(cluster, Math.max(0, counts.get(cluster) - uses));
      refcountUses.set(cluster, 0);
    }
  }
  const layout = plan(file, walk);
  const { start, blocks, tableClusters } = layout;
  const end = start + blocks.length + tableClusters;
  for (let cluster = start; cluster < end; cluster++) counts.set(cluster, 1);
  const table = new Uint8Array(tableClusters * clusterSize);
  const view = new DataView(table.buffer);
  for (const [position, index] of blocks.entries()) {
    const content = new Uint8Array(clusterSize);
    for (let inBlock = 0; inBlock < refcountsPerBlock; inBlock++) {
      const count = Math.min(refcountMax, counts.get(index * refcountsPerBlock + inBlock));
      if (count > 0) writeCounter(content, Math.floor((inBlock * refcountBits) / 8), inBlock, refcountBits, count);
    }
    const at = (start + position) * clusterSize;
    file.write(content, 0, clusterSize, hostOffset(at));
    writeU64BE(view, index * REFCOUNT_TABLE_ENTRY_BYTES, at);
  }
  const tableOffset = (start + blocks.length) * clusterSize;
  file.write(table, 0, table.length, hostOffset(tableOffset));
  file.sync();
  writeRefcountTableFields(file, { refcountTableOffset: tableOffset, refcountTableClusters: tableClusters });
  file.sync();
  counters.replace(blocks.map((index, position) => [index, (start + position) * clusterSize]));
  log(
    `The refcount structures are rebuilt: a table at ${hex(tableOffset)} with ${blocks.length} blocks replaces the table at ` +
      `${hex(header.refcountTableOffset)}`,
  );
}

/** If an entry could not be followed, readable counters keep their values, so no cluster that the entry may use becomes free. */
function keepCountersOfUnfollowed({ counters, geometry, unfollowed, uses }: ReferenceWalk): void {
  const { counts } = uses;
  if (unfollowed === 0) return;
  const { refcountsPerBlock } = geometry;
  for (const block of counters.indices()) {
    for (let cluster = block * refcountsPerBlock; cluster < (block + 1) * refcountsPerBlock; cluster++) {
      const counter = counters.get(cluster);
      if (counter > counts.get(cluster)) counts.set(cluster, counter);
    }
  }
}

/** The new blocks also count the table and themselves, so the loop runs until their number no longer changes. */
function plan(file: HostFile, { geometry, report, uses }: ReferenceWalk): Layout {
  const { counts, fileEnd, lowestBeyond } = uses;
  const { clusterSize, refcountsPerBlock } = geometry;
  const used = new Set<number>();
  for (const { start, end } of counts.ranges()) {
    for (let cluster = start; cluster < end; cluster++) {
      if (counts.get(cluster) > 0) used.add(Math.floor(cluster / refcountsPerBlock));
    }
  }
  const start = roundUp(Math.max(fileEnd, report.imageEndOffset), clusterSize) / clusterSize;
  let taken = 0;
  for (;;) {
    for (let cluster = start; cluster < start + taken; cluster++) used.add(Math.floor(cluster / refcountsPerBlock));
    const blocks = [...used].sort((a, b) => a - b);
    const tableClusters = Math.ceil((((blocks.at(-1) ?? 0) + 1) * REFCOUNT_TABLE_ENTRY_BYTES) / clusterSize);
    const needed = blocks.length + tableClusters;
    const context = { path: file.path };
    if (tableClusters * clusterSize > QCOW_MAX_REFTABLE_SIZE) {
      throw new ImgfuseError(
        'limit',
        `a refcount table up to ${hex((start + needed) * clusterSize)} would take ${tableClusters * clusterSize} bytes; ` +
          `at most ${QCOW_MAX_REFTABLE_SIZE} are allowed`,
        context,
      );
    }
    if (needed === taken) {
      if (lowestBeyond < (start + needed) * clusterSize) {
        throw new ImgfuseError(
          'corrupt',
          `an entry refers to ${hex(lowestBeyond)}, beyond the end of the file, and the new structures would overwrite that; ` +
            'restore the missing end of the file, or copy the readable part with imgfuse mount -o ro',
          context,
        );
      }
      return { start, blocks, tableClusters };
    }
    taken = needed;
  }
}
