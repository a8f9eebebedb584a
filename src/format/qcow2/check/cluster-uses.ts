// Which clusters of the file are used, and how often: what a walk counts. A use beyond the file is a finding, and is not
// counted.

import { hex, roundUp } from '../../../bytes/offsets.ts';
import type { Geometry } from '../geometry.ts';
import type { MetadataKind } from '../metadata-clusters.ts';
import { CountedReferences } from './counted-references.ts';
import { type Findings, showOffset } from './findings.ts';

/** Told where metadata is. */
export type MarkMetadata = (kind: MetadataKind, firstCluster: number, count: number) => void;

/** Clusters [start, start + count). */
export interface ClusterSpan {
  readonly start: number;
  readonly count: number;
}

export class ClusterUses {
  readonly counts = new CountedReferences();
  /** of the counts, the references of refcount table and header to refcount structures: what a rebuild takes away */
  readonly refcountUses = new CountedReferences();
  readonly refcountSpans: ClusterSpan[] = [];
  /** first byte behind the last cluster of the file, which need not be whole */
  readonly fileEnd: number;
  /** the lowest offset behind the end of the file that something refers to */
  lowestBeyond = Number.POSITIVE_INFINITY;
  private readonly fileSize: number;
  private readonly geometry: Geometry;
  private readonly findings: Findings;
  private readonly mark: MarkMetadata | undefined;

  constructor(fileSize: number, geometry: Geometry, findings: Findings, mark: MarkMetadata | undefined) {
    this.fileSize = fileSize;
    this.fileEnd = roundUp(fileSize, geometry.clusterSize);
    this.geometry = geometry;
    this.findings = findings;
    this.mark = mark;
  }

  /** A whole, aligned cluster of the file, and not the header's. */
  isCluster(offset: number): boolean {
    const { clusterSize } = this.geometry;
    return offset > 0 && offset % clusterSize === 0 && offset + clusterSize <= this.fileEnd;
  }

  /** References to a whole, aligned cluster. @returns whether it is one */
  addCluster(offset: number, what: string, kind: MetadataKind | null, references = 1): boolean {
    if (this.isCluster(offset)) return this.add(offset, this.geometry.clusterSize, what, kind, references);
    this.findings.unrepairable(`${what} refers to ${showOffset(offset)}, which is no cluster of this file`);
    if (offset >= this.fileEnd) this.lowestBeyond = Math.min(this.lowestBeyond, offset);
    return false;
  }

  /** References to every cluster in which the bytes lie. @returns whether they lie in the file */
  add(offset: number, length: number, what: string, kind: MetadataKind | null, references = 1): boolean {
    const { clusterSize } = this.geometry;
    const { report } = this.findings;
    // the padding of compressed data may be missing at the end of the file
    if (!(offset >= 0 && offset + length < this.fileSize + clusterSize)) {
      this.findings.unrepairable(`${what} at ${hex(offset)} with ${length} bytes lies beyond the file`);
      this.lowestBeyond = Math.min(this.lowestBeyond, Math.max(offset, this.fileEnd));
      return false;
    }
    const first = this.geometry.clusterOf(offset);
    const end = Math.ceil((offset + length) / clusterSize);
    for (let cluster = first; cluster < end; cluster++) this.counts.add(cluster, references);
    if (kind !== null) this.mark?.(kind, first, end - first);
    report.imageEndOffset = Math.max(report.imageEndOffset, roundUp(offset + length, clusterSize));
    return true;
  }

  /** Whole clusters of the refcount table, or a refcount block. */
  addRefcounts(offset: number, length: number, what: string, kind: MetadataKind): void {
    const { clusterSize } = this.geometry;
    this.add(offset, length, what, kind);
    const span = { start: offset / clusterSize, count: length / clusterSize };
    this.refcountSpans.push(span);
    for (let cluster = span.start; cluster < span.start + span.count; cluster++) this.refcountUses.add(cluster);
  }

  /** References to a cluster that are left when the refcount structures are made anew. */
  referencesToKeep(cluster: number): number {
    return this.counts.get(cluster) - this.refcountUses.get(cluster);
  }
}
