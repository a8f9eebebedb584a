// The shared numbers that every image of tables has: the size of its disk, and how much of it has data. They are the first of
// the numbers of an image; its format's own follow. Each needs the metadata lock, but for those that say `OutsideLock`.

import { LockedNumbers, type LockedNumbersParts } from './locked-numbers.ts';

const VIRTUAL_SIZE = 0;
const ALLOCATED_CLUSTERS = 1;
/** The place of the first number that is the format's own. */
export const FIRST_OWN_NUMBER = 2;

/** Before any thread shares them. */
export function initializeDiskNumbers(
  numbers: SharedArrayBuffer,
  virtualSize: number,
  allocatedClusters: number,
): void {
  const values = new Float64Array(numbers);
  values[VIRTUAL_SIZE] = virtualSize;
  values[ALLOCATED_CLUSTERS] = allocatedClusters;
}

export class DiskNumbers {
  private readonly numbers: LockedNumbers;
  /** what this thread takes for the size; null: what all do */
  private seen: number | null = null;

  constructor(parts: LockedNumbersParts) {
    this.numbers = new LockedNumbers(parts);
  }

  /** Bytes of the disk. */
  get virtualSize(): number {
    return this.seen ?? this.numbers.get(VIRTUAL_SIZE);
  }

  /** Runs `action` as if the disk had `size` bytes: nobody else reaches what lies behind its end before setVirtualSize(). */
  seeing(size: number, action: () => void): void {
    this.seen = size;
    try {
      action();
    } finally {
      this.seen = null;
    }
  }

  setVirtualSize(size: number): void {
    this.numbers.set(VIRTUAL_SIZE, size);
  }

  virtualSizeOutsideLock(): number {
    return this.seen ?? this.numbers.getOutsideLock(VIRTUAL_SIZE);
  }

  /** Data clusters that are linked or wait for their link. */
  addAllocated(clusters: number): void {
    this.numbers.add(ALLOCATED_CLUSTERS, clusters);
  }

  removeAllocated(clusters: number): void {
    this.numbers.add(ALLOCATED_CLUSTERS, -clusters);
  }

  allocatedClustersOutsideLock(): number {
    return this.numbers.getOutsideLock(ALLOCATED_CLUSTERS);
  }
}
