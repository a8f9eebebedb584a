// Stands for a backing file that is not opened, because a repair of the overlay's own tables never looks below them. The
// overlay must know that it has one: what it does not map is no zeros then. Whoever reads it has a bug.

import type { HostFile } from '../host/host-file.ts';
import type { Extent, ImageDetails, ImageFile, ReadOnlyImage, SharedImage, StatusRun } from './image-format.ts';

export class UnopenedBacking implements ReadOnlyImage {
  readonly format: string;
  readonly name: string;
  readonly readOnly = true;
  readonly clusterSize = 1;
  readonly backing = null;

  /** @param overlay a name for messages */
  constructor(format: string, overlay: string) {
    this.format = format;
    this.name = `the backing file of ${overlay}`;
  }

  get file(): HostFile {
    return this.refuse();
  }

  get files(): readonly ImageFile[] {
    return [];
  }

  virtualSize(): number {
    return this.refuse();
  }

  allocatedBytes(): number {
    return this.refuse();
  }

  read(): void {
    this.refuse();
  }

  map(): Extent {
    return this.refuse();
  }

  mapStatus(): StatusRun {
    return this.refuse();
  }

  mapContent(): StatusRun {
    return this.refuse();
  }

  close(): void {}

  abandon(): void {}

  details(): ImageDetails {
    return this.refuse();
  }

  share(): SharedImage {
    return this.refuse();
  }

  private refuse(): never {
    throw new Error(`${this.name} is not open, and is read`);
  }
}
