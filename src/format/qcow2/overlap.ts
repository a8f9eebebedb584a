// The look before a write: guest data never goes to a cluster that holds metadata, and a table changes only if its cluster holds
// a table of its kind. The open has verified both for every entry of the image, and here it is verified again: a hit means that
// somebody else wrote to the file, or a bug, and the image takes no further change. Under the metadata lock.

import { after, type HostCluster, type HostOffset, hex } from '../../bytes/offsets.ts';
import type { Geometry } from './geometry.ts';
import type { HeaderBits } from './header-bits.ts';
import type { MetadataClusters, MetadataKind } from './metadata-clusters.ts';
import type { Qcow2Numbers } from './state.ts';

const CURE = 'the image is read-only from now on; unmount it and run imgfuse check';

export class OverlapCheck {
  private readonly geometry: Geometry;
  private readonly metadata: MetadataClusters;
  private readonly headerBits: HeaderBits;
  private readonly numbers: Pick<Qcow2Numbers, 'fileEnd'>;
  private readonly hasDataFile: boolean;

  /** @param hasDataFile guest data lies in a file of its own, where there is no metadata to hit */
  constructor(
    geometry: Geometry,
    metadata: MetadataClusters,
    headerBits: HeaderBits,
    numbers: Pick<Qcow2Numbers, 'fileEnd'>,
    hasDataFile: boolean,
  ) {
    this.geometry = geometry;
    this.metadata = metadata;
    this.headerBits = headerBits;
    this.numbers = numbers;
    this.hasDataFile = hasDataFile;
  }

  /** Bytes of the guest are about to change at `host`. @throws ImgfuseError corrupt */
  assertData(host: HostOffset, length: number): void {
    if (this.hasDataFile) return;
    const first = this.geometry.clusterOf(host);
    const hit = this.metadata.find(first, this.geometry.clusterOf(after(host, length - 1)) - first + 1);
    if (hit === null) return;
    const at = this.geometry.startOf(hit);
    throw this.headerBits.damaged(
      `guest data would go to ${hex(at)}, where the ${this.metadata.kindOf(hit)} is; ${CURE}`,
      at,
    );
  }

  /** These clusters are about to be handed out. @throws ImgfuseError corrupt */
  assertUnused(first: HostCluster, count: number): void {
    const hit = this.metadata.find(first, count);
    if (hit === null) return;
    const at = this.geometry.startOf(hit);
    throw this.headerBits.damaged(
      `the cluster at ${hex(at)} counts as free, but the ${this.metadata.kindOf(hit)} is there; ${CURE}`,
      at,
    );
  }

  /** An entry or counter of a table at `host` is about to change. @throws ImgfuseError corrupt */
  assertTable(host: HostOffset, kind: MetadataKind): void {
    const cluster = this.geometry.clusterOf(host);
    // of a cluster too far out for the map it is known that a table can be there if the file is
    if (!this.metadata.tracks(cluster) && this.geometry.startOf(cluster) < this.numbers.fileEnd) return;
    const found = this.metadata.kindOf(cluster);
    if (found === kind) return;
    throw this.headerBits.damaged(
      `${/^[aeiou]/.test(kind) ? 'an' : 'a'} ${kind} is looked for at ${hex(host)}, where ${found === null ? 'none' : `the ${found}`} is; ${CURE}`,
      host,
    );
  }
}
