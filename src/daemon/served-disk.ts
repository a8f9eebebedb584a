// The disk of a mount as its main thread has it: the keeper opens, closes and rescues it, and this thread attaches to it when
// somebody asks for more than the keeper tells, because the engines take long to load.
// Invariant: what this thread attaches to is what the keeper has open, or had open when it died.

import type { SharedDisk, VirtualDisk } from '../disk/index.ts';
import { DiskKeeper, type KeptDisk, type OpenRequest } from './keeper/disk-keeper.ts';
import type { Log } from './log.ts';

/** The reservation slot of the keeper; those of the workers follow, and the main thread has the last one. */
export const KEEPER_SLOT = 0;

export class ServedDisk {
  readonly #log: Log;
  /** of this thread */
  readonly #slot: number;
  #keeper: DiskKeeper;
  /** what the keeper has open; null while it opens it */
  #shared: SharedDisk | null = null;
  /** the same for this thread */
  #disk: VirtualDisk | null = null;
  #attachDisk: ((shared: SharedDisk, slot: number, log: (sentence: string) => void) => VirtualDisk) | null = null;

  /** @param workers how many threads serve the disk */
  constructor(keeper: DiskKeeper, workers: number, log: Log) {
    this.#keeper = keeper;
    this.#slot = workers + 1;
    this.#log = log;
    keeper.log = log;
  }

  get keeper(): DiskKeeper {
    return this.#keeper;
  }

  /** Null until this thread has attached to it. */
  get attachedDisk(): VirtualDisk | null {
    return this.#disk;
  }

  /** @throws ImgfuseError why it cannot be opened; nothing is open then */
  async open(request: OpenRequest): Promise<KeptDisk> {
    const disk = await this.#keeper.open(request);
    this.#shared = disk.shared;
    return disk;
  }

  /** The disk for this thread; it has been opened. */
  async attached(): Promise<VirtualDisk> {
    this.#attachDisk ??= (await import('../disk/index.ts')).attachDisk;
    return this.#disk ?? this.#attach(this.#shared!);
  }

  /** The keeper has opened another one in its place; this thread was attached to the one before. */
  exchange(shared: SharedDisk): void {
    this.#attach(shared);
  }

  /** The connection of the mount has ended: no request in hand need wait for a slow server of a backing file any more. */
  giveUpServers(): void {
    void this.attached().then(
      (disk) => disk.giveUpServers(),
      () => undefined,
    );
  }

  /** A thread has died: whoever waits for what it held gets an error. */
  abandon(thread: number, slot: number): void {
    if (this.#shared === null) return;
    void this.attached().then(
      (disk) => disk.abandon(thread, slot),
      () => undefined,
    );
  }

  /** Flushes, marks clean, closes. @throws ImgfuseError when the image is not clean */
  async close(): Promise<void> {
    await this.#keeper.close();
  }

  /** Makes durable what can be, and calls nothing clean. @throws ImgfuseError what could not be made durable */
  async rescue(): Promise<void> {
    if (this.#keeper.isDead) {
      this.#keeper = new DiskKeeper();
      this.#keeper.log = this.#log;
      await this.#keeper.adoptDead(this.#shared!, KEEPER_SLOT);
    }
    await this.#keeper.rescue();
  }

  #attach(shared: SharedDisk): VirtualDisk {
    this.#shared = shared;
    this.#disk = this.#attachDisk!(shared, this.#slot, (sentence) => this.#log('notice', sentence));
    return this.#disk;
  }
}
