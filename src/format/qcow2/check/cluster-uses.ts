// The references that a walk counts, for every cluster of the file. A reference beyond the end of the file becomes a finding
// and is not counted.

import { hex, roundUp } from '../../../bytes/offsets.ts';
import type { CheckReport } from '../../check-report.ts';
import type { Geometry } from '../geometry.ts';
import type { MetadataKind } from '../metadata-clusters.ts';
import { CountedReferences } from './counted-references.ts';
import { type Findings, showOffset } from './findings.ts';

/** Called with each run of clusters that holds metadata. */
export type MarkMetadata = (kind: MetadataKind, firstCluster: number, count: number) => void;

/** Clusters [start, start + count). */
export interface ClusterSpan {
  readonly start: number;
  readonly count: number;
}

export class ClusterUses {
  readonly counts: CountedReferences;
  /** the part of the counts that refers to the refcount table and its blocks: a rebuild subtracts it */
  readonly refcountUses: CountedReferences;
  readonly refcountSpans: ClusterSpan[] = [];
  /** the file's size, rounded up to whole clusters */
  readonly fileEnd: number;
  /** the lowest offset beyond the end of the file that an entry refers to */
  lowestBeyond = Number.POSITIVE_INFINITY;
  private readonly fileSize: number;
  private readonly clusterSize: number;
  /** clusters in a byte */
  private readonly perByte: number;
  private readonly geometry: Geometry;
  private readonly findings: Findings;
  private readonly report: CheckReport;
  private readonly mark: MarkMetadata | undefined;

  constructor(fileSize: number, geometry: Geometry, findings: Findings, mark: MarkMetadata | undefined) {
    this.fileSize = fileSize;
    this.fileEnd = roundUp(fileSize, geometry.clusterSize);
    this.counts = new CountedReferences(this.fileEnd / geometry.clusterSize);
    this.refcountUses = new CountedReferences(this.fileEnd / geometry.clusterSize);
    this.geometry = geometry;
    this.findings = findings;
    this.report = findings.report;
    this.clusterSize = geometry.clusterSize;
    this.perByte = 1 / geometry.clusterSize;
    this.mark = mark;
  }

  /** Whether `offset` is that of a cluster of the file, other than the header's. */
  isCluster(offset: number): boolean {
    const { clusterSize } = this.geometry;
    return offset > 0 && offset % clusterSize === 0 && offset + clusterSize <= this.fileEnd;
  }

  /** Counts references to one cluster. @param what names the entry in a finding @returns whether `offset` is a cluster */
  addCluster(offset: number, what: () => string, kind: MetadataKind | null, references = 1): boolean {
    if (this.isCluster(offset)) {
      this.addClusters(offset, 1, references);
      if (kind !== null) this.mark?.(kind, this.geometry.clusterOf(offset), 1);
      return true;
    }
    this.findings.unrepairable(`${what()} refers to ${showOffset(offset)}, which is not a cluster of this file`);
    if (offset >= this.fileEnd) this.lowestBeyond = Math.min(this.lowestBeyond, offset);
    return false;
  }

  /** Counts references to `clusters` clusters of the file, from `offset` on. */
  addClusters(offset: number, clusters: number, references: number): void {
    // exact: the size of a cluster is a power of two
    const first = offset * this.perByte;
    if (clusters === 1) this.counts.add(first, references);
    else this.counts.addRun(first, clusters, references);
    const end = offset + clusters * this.clusterSize;
    if (end > this.report.imageEndOffset) this.report.imageEndOffset = end;
  }

  /** Counts references to every cluster that holds some of the bytes, which the file holds. */
  addBytes(offset: number, length: number, references: number): void {
    const { clusterSize } = this.geometry;
    const first = Math.floor(offset / clusterSize);
    this.addClusters(first * clusterSize, Math.ceil((offset + length) / clusterSize) - first, references);
  }

  /** Whether the bytes lie in the file; the padding of compressed data may be missing at its end. */
  holds(offset: number, length: number): boolean {
    return offset >= 0 && offset + length < this.fileSize + this.geometry.clusterSize;
  }

  /** Counts references to every cluster that holds some of the bytes. @returns whether the bytes lie in the file */
  add(offset: number, length: number, what: string, kind: MetadataKind | null, references = 1): boolean {
    const { clusterSize } = this.geometry;
    if (!this.holds(offset, length)) {
      this.findings.unrepairable(`${what} at ${hex(offset)} with ${length} bytes lies beyond the file`);
      this.lowestBeyond = Math.min(this.lowestBeyond, Math.max(offset, this.fileEnd));
      return false;
    }
    this.addBytes(offset, length, references);
    const first = this.geometry.clusterOf(offset);
    if (kind !== null) this.mark?.(kind, first, Math.ceil((offset + length) / clusterSize) - first);
    return true;
  }

  /** Counts a reference to the refcount table or to a refcount block, which are whole clusters. */
  addRefcounts(offset: number, length: number, what: string, kind: MetadataKind): void {
    const { clusterSize } = this.geometry;
    this.add(offset, length, what, kind);
    const span = { start: offset / clusterSize, count: length / clusterSize };
    this.refcountSpans.push(span);
    this.refcountUses.addRun(span.start, span.count, 1);
  }

  /** References to a cluster, without those that a rebuild of the refcount structures removes. */
  referencesToKeep(cluster: number): number {
    return this.counts.get(cluster) - this.refcountUses.get(cluster);
  }
}
