// An open sparsebundle, read-only: the bands are one host file, at whose offsets the bytes of the disk are. Nothing is read ahead of
// a request, so an open takes the same time whatever the number of bands.

import { type GuestOffset, hostOffset } from '../../bytes/offsets.ts';
import { type HostFile, possibleDataBytes, readPadded } from '../../host/host-file.ts';
import {
  type Extent,
  type ImageDetails,
  type ImageFile,
  onlyFile,
  type ReadOnlyImage,
  type SharedImage,
  type StatusRun,
  shareImage,
} from '../image-format.ts';
import { PlainMap } from '../plain-map.ts';

export class BundleImage implements ReadOnlyImage {
  readonly format: string;
  readonly readOnly = true;
  readonly backing = null;
  readonly file: HostFile;
  readonly files: readonly ImageFile[];
  readonly clusterSize: number;
  private readonly facts: ImageDetails;
  private readonly bands: HostFile;
  private readonly plainMap: PlainMap;

  /** @param extents the bands, and what else is open */
  constructor(file: HostFile, extents: readonly HostFile[], facts: ImageDetails) {
    const bands = extents[0]!;
    this.format = facts.format;
    this.file = file;
    this.files = [...onlyFile(file), ...extents.map((extent) => ({ role: 'extent', file: extent }) as const)];
    this.clusterSize = facts.clusterSize!;
    this.facts = facts;
    this.bands = bands;
    this.plainMap = new PlainMap(bands);
  }

  virtualSize(): number {
    return this.facts.virtualSize;
  }

  allocatedBytes(): number {
    return Math.min(possibleDataBytes(this.bands), this.virtualSize());
  }

  read(target: Uint8Array, targetOffset: number, length: number, offset: GuestOffset): void {
    readPadded(this.bands, target, targetOffset, length, hostOffset(offset));
  }

  map(offset: GuestOffset, length: number): Extent {
    return { ...this.plainMap.map(offset, length), holder: this.bands };
  }

  mapStatus(offset: GuestOffset, length: number): StatusRun {
    return this.plainMap.map(offset, length);
  }

  mapContent(offset: GuestOffset, length: number): StatusRun {
    return this.plainMap.map(offset, length);
  }

  close(): void {}

  /** A dead thread leaves nothing behind: threads hold no locks here. */
  abandon(): void {}

  details(): ImageDetails {
    return this.facts;
  }

  share(): SharedImage {
    return shareImage(this, this.facts);
  }
}
