// The walk of the refcount table: counts the clusters of the table and its blocks, finds the blocks that can be used, and has
// them read.

import { combine } from '../../../bytes/endian.ts';
import { hex } from '../../../bytes/offsets.ts';
import type { HostFile } from '../../../host/host-file.ts';
import { QCOW_MAX_REFTABLE_SIZE, type Qcow2Header } from '../header/header.ts';
import { readTable } from '../table.ts';
import type { ClusterUses } from './cluster-uses.ts';
import { type Findings, showOffset } from './findings.ts';
import type { OnDiskRefcounts } from './on-disk-refcounts.ts';

interface RefcountWalkParts {
  readonly file: HostFile;
  readonly header: Qcow2Header;
  readonly uses: ClusterUses;
  readonly findings: Findings;
  /** receives the blocks that can be used */
  readonly counters: OnDiskRefcounts;
}

export function walkRefcountTable({ file, header, uses, findings, counters }: RefcountWalkParts): void {
  const { clusterSize, refcountTableClusters, refcountTableOffset: offset } = header;
  const length = refcountTableClusters * clusterSize;
  const isInside = offset > 0 && offset % clusterSize === 0 && offset + length <= uses.fileEnd;
  if (length === 0 || length > QCOW_MAX_REFTABLE_SIZE || !isInside) {
    findings.structureFault(
      `the refcount table of ${length} bytes at ${showOffset(offset)} is not a table of this file`,
    );
    return;
  }
  uses.addRefcounts(offset, length, 'the refcount table', 'refcount table');
  const table = readTable(file, offset, length);
  for (let at = 0; at < length; at += 8) {
    const high = table.getUint32(at);
    const low = table.getUint32(at + 4);
    if (high === 0 && low === 0) continue;
    const block = combine(high, low);
    const what = `refcount table entry ${at / 8} at offset ${hex(offset + at)}`;
    if (!(block % clusterSize === 0 && block + clusterSize <= uses.fileEnd)) {
      findings.structureFault(`${what} refers to ${showOffset(block)}, which is not a cluster of this file`);
      continue;
    }
    const seen = uses.counts.get(block / clusterSize);
    uses.addRefcounts(block, clusterSize, what, 'refcount block');
    // a cluster that is already in use, such as another entry's block, is no block: checkExclusive() reports it
    if (seen === 0) counters.add(at / 8, block);
  }
  counters.scan(uses.fileEnd / clusterSize);
}
