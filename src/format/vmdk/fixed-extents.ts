// Extents without a file: ZERO reads as zeros, and NOACCESS is a place on the disk whose bytes nobody may have. Both keep their range,
// so that what follows stays where it is.

import type { GuestOffset } from '../../bytes/offsets.ts';
import { ImgfuseError } from '../../errors/index.ts';
import type { Extent, ReadableImage } from '../image-format.ts';

/** What is read of one extent; offsets count from its first byte. */
export type ExtentReader = Pick<
  ReadableImage,
  'allocatedBytes' | 'map' | 'mapContent' | 'mapStatus' | 'read' | 'virtualSize'
>;

export class ZeroExtent implements ExtentReader {
  private readonly length: number;

  constructor(length: number) {
    this.length = length;
  }

  virtualSize(): number {
    return this.length;
  }

  allocatedBytes(): number {
    return 0;
  }

  read(target: Uint8Array, targetOffset: number, length: number): void {
    target.fill(0, targetOffset, targetOffset + length);
  }

  map(offset: GuestOffset, length: number): Extent {
    return { start: offset, length, status: 'zero' };
  }

  mapStatus(offset: GuestOffset, length: number): Extent {
    return this.map(offset, length);
  }

  mapContent(offset: GuestOffset, length: number): Extent {
    return this.map(offset, length);
  }
}

export class ClosedExtent implements ExtentReader {
  private readonly length: number;
  private readonly path: string;

  /** @param path of the descriptor */
  constructor(length: number, path: string) {
    this.length = length;
    this.path = path;
  }

  virtualSize(): number {
    return this.length;
  }

  allocatedBytes(): number {
    return 0;
  }

  /** @throws ImgfuseError permission */
  read(): never {
    throw new ImgfuseError(
      'permission',
      `${this.path} says NOACCESS of these bytes of the disk, so nobody reads them here`,
      { path: this.path },
    );
  }

  map(offset: GuestOffset, length: number): Extent {
    return { start: offset, length, status: 'data' };
  }

  mapStatus(offset: GuestOffset, length: number): Extent {
    return this.map(offset, length);
  }

  mapContent(offset: GuestOffset, length: number): Extent {
    return this.map(offset, length);
  }
}
