// The part of an image from some place on, as the image below one extent: an extent asks for its own bytes from 0 on. Nothing is
// opened or closed here, and what lies beyond the end of the image is beyond the end of the view.

import { after, type GuestOffset } from '../../bytes/offsets.ts';
import type { HostFile } from '../../host/host-file.ts';
import type {
  Extent,
  ImageDetails,
  ImageFile,
  ReadableImage,
  ReadOnlyImage,
  SharedImage,
  StatusRun,
} from '../image-format.ts';

export class RangeView implements ReadOnlyImage {
  readonly readOnly = true;
  readonly backing: ReadableImage | null;
  private readonly image: ReadableImage;
  private readonly start: number;

  constructor(image: ReadableImage, start: number) {
    this.image = image;
    this.start = start;
    this.backing = image.backing === null ? null : new RangeView(image.backing, start);
  }

  get format(): string {
    return this.image.format;
  }

  get file(): HostFile {
    return this.image.file;
  }

  get files(): readonly ImageFile[] {
    return this.image.files;
  }

  get clusterSize(): number {
    return this.image.clusterSize;
  }

  virtualSize(): number {
    return Math.max(0, this.image.virtualSize() - this.start);
  }

  allocatedBytes(): number {
    return this.image.allocatedBytes();
  }

  read(target: Uint8Array, targetOffset: number, length: number, offset: GuestOffset): void {
    this.image.read(target, targetOffset, length, after(offset, this.start));
  }

  map(offset: GuestOffset, length: number): Extent {
    return { ...this.image.map(after(offset, this.start), length), start: offset };
  }

  mapStatus(offset: GuestOffset, length: number): StatusRun {
    return this.image.mapStatus(after(offset, this.start), length);
  }

  mapContent(offset: GuestOffset, length: number): StatusRun {
    return this.image.mapContent(after(offset, this.start), length);
  }

  /** The image has an owner. */
  close(): void {}

  abandon(): void {}

  details(): ImageDetails {
    return this.image.details();
  }

  /** The image is shared by its owner. */
  share(): SharedImage {
    return { format: this.format, files: [], state: null, backing: null };
  }
}

/** What lies below an extent that begins at `start`. */
export function viewFrom(image: ReadableImage | null, start: number): ReadableImage | null {
  return image === null || start === 0 ? image : new RangeView(image, start);
}
