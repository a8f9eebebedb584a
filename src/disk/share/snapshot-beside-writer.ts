// The disk of an internal snapshot of an image that another program may be writing to. When the image was opened again, the snapshot
// is looked for there: its tables may lie elsewhere, or be gone, and their place may hold something else.

import type { GuestOffset } from '../../bytes/offsets.ts';
import { ImgfuseError } from '../../errors/index.ts';
import type {
  Image,
  ReadableImage,
  ReadableSnapshot,
  SnapshotImage,
  Snapshots,
  StatusRun,
} from '../../format/image-format.ts';
import type { HostFile } from '../../host/host-file.ts';

/** The image that has the snapshot. */
export interface ImageOfSnapshot {
  readonly file: HostFile;
  readonly backing: ReadableImage | null;
  /** as this thread knows it */
  current(): Image;
  /** Tries again with the image opened anew. @throws what `action` throws in the end */
  lookAgain<T>(error: unknown, action: (image: Image) => T): T;
}

export class SnapshotBesideWriter implements SnapshotImage {
  readonly backing: ReadableImage | null;
  private readonly image: ImageOfSnapshot;
  private readonly wanted: ReadableSnapshot;
  /** the last that was found, and where */
  private snapshot: SnapshotImage;
  private snapshots: Snapshots | undefined;

  /** @param snapshots of the first opening, which have this one */
  constructor(image: ImageOfSnapshot, snapshots: Snapshots, wanted: ReadableSnapshot) {
    this.image = image;
    this.backing = image.backing;
    this.wanted = wanted;
    this.snapshots = snapshots;
    this.snapshot = snapshots.open(snapshots.list.indexOf(wanted));
  }

  virtualSize(): number {
    return this.wanted.virtualSize;
  }

  allocatedBytes(): number {
    return this.snapshot.allocatedBytes();
  }

  read(target: Uint8Array, targetOffset: number, length: number, offset: GuestOffset): void {
    this.ask((snapshot) => snapshot.read(target, targetOffset, length, offset));
  }

  mapContent(offset: GuestOffset, length: number): StatusRun {
    return this.ask((snapshot) => snapshot.mapContent(offset, length));
  }

  private ask<T>(question: (snapshot: SnapshotImage) => T): T {
    const action = (image: Image): T => question(this.find(image));
    const now = this.image.current();
    try {
      return action(now);
    } catch (error) {
      return this.image.lookAgain(error, action);
    }
  }

  private find({ snapshots }: Image): SnapshotImage {
    if (snapshots === this.snapshots) return this.snapshot;
    const position = snapshots?.list.findIndex((each) => isSame(each, this.wanted)) ?? -1;
    if (snapshots === undefined || position < 0) throw this.gone();
    this.snapshot = snapshots.open(position);
    this.snapshots = snapshots;
    return this.snapshot;
  }

  private gone(): ImgfuseError {
    const { path } = this.image.file;
    const { id, name } = this.wanted;
    const sentence = `${path}: the snapshot ${JSON.stringify(name === '' ? id : name)} is not in the image any more: another program has deleted it`;
    return new ImgfuseError('io', sentence, { path });
  }
}

function isSame(one: ReadableSnapshot, other: ReadableSnapshot): boolean {
  return (['id', 'name', 'dateSeconds', 'dateNanoseconds', 'virtualSize'] as const).every(
    (key) => one[key] === other[key],
  );
}
