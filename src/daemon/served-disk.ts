// The main thread's view of the disk of a mount. The keeper opens, closes and rescues the disk. This thread attaches to it only if
// it needs more than the keeper tells, because loading the engines takes long.
// Invariant: this thread attaches to the disk that the keeper has open, or had open when it died.

import type { SharedDisk, VirtualDisk } from '../disk/index.ts';
import { DiskKeeper, type KeptDisk, type OpenRequest } from './keeper/disk-keeper.ts';
import type { Log } from './log.ts';

/** Reservation slot of the keeper. The slots of the threads that serve follow, that of the main thread, and that of the inspector. */
export const KEEPER_SLOT = 0;

export class ServedDisk {
  private readonly log: Log;
  /** of this thread */
  private readonly slot: number;
  private currentKeeper: DiskKeeper;
  /** the disk that the keeper has open; null until it is open */
  private opened: SharedDisk | null = null;
  /** the disk that this thread is attached to */
  private disk: VirtualDisk | null = null;
  /** this thread is attached, or about to be */
  private isAsked = false;
  private attachDisk: ((shared: SharedDisk, slot: number, log: (sentence: string) => void) => VirtualDisk) | null =
    null;

  /** @param threads how many serve the disk */
  constructor(keeper: DiskKeeper, threads: number, log: Log) {
    this.currentKeeper = keeper;
    this.slot = threads + 1;
    this.log = log;
    keeper.log = log;
  }

  get keeper(): DiskKeeper {
    return this.currentKeeper;
  }

  /** What threads attach to; null until the disk is open. */
  get shared(): SharedDisk | null {
    return this.opened;
  }

  /** The attached disk; null if this thread is not attached. */
  get attachedDisk(): VirtualDisk | null {
    return this.disk;
  }

  /** @throws ImgfuseError why the disk cannot be opened; nothing is open then */
  async open(request: OpenRequest): Promise<KeptDisk> {
    const disk = await this.currentKeeper.open(request);
    this.opened = disk.shared;
    return disk;
  }

  /** Attaches this thread to the disk, which must be open. */
  async attached(): Promise<VirtualDisk> {
    this.isAsked = true;
    this.attachDisk ??= (await import('../disk/index.ts')).attachDisk;
    return this.disk ?? this.attach(this.opened!);
  }

  /** The keeper has opened a new disk: attaches this thread to it instead of the old one. It must have been attached before. */
  exchange(shared: SharedDisk): void {
    this.attach(shared);
  }

  /**
   * The connection of the mount has ended, so running requests need not wait for a slow server of a backing file. If nobody has
   * opened a file, nobody waits.
   */
  giveUpServers(): void {
    if (!this.isAsked) return;
    void this.attached().then(
      (disk) => disk.giveUpServers(),
      () => undefined,
    );
  }

  /** A thread has died: requests that wait for its reservations or locks fail. */
  abandon(thread: number, slot: number): void {
    if (this.opened === null) return;
    void this.attached().then(
      (disk) => disk.abandon(thread, slot),
      () => undefined,
    );
  }

  /** Flushes, marks clean, closes. @returns bytes of the disk in its image @throws ImgfuseError if the image is not clean */
  close(): Promise<number | null> {
    return this.currentKeeper.close(false);
  }

  /** The same for a disk that could not be mounted: an overlay that was made for it is removed again. */
  withdraw(): Promise<number | null> {
    return this.currentKeeper.close(true);
  }

  /** Makes durable what it can, without marking the image clean. @throws ImgfuseError what could not be made durable */
  async rescue(): Promise<void> {
    if (this.currentKeeper.isDead) {
      this.currentKeeper = new DiskKeeper();
      this.currentKeeper.log = this.log;
      await this.currentKeeper.adoptDead(this.opened!, KEEPER_SLOT);
    }
    await this.currentKeeper.rescue();
  }

  private attach(shared: SharedDisk): VirtualDisk {
    this.opened = shared;
    this.disk = this.attachDisk!(shared, this.slot, (sentence) => this.log('notice', sentence));
    return this.disk;
  }
}
