// Reads of one run of the guest's, in formats whose data may be encrypted or compressed: from its host clusters, from the compressed
// cluster, from the backing file. Without the metadata lock; the clusters are reserved.

import type { GuestOffset, HostOffset } from '../../../bytes/offsets.ts';
import { failpoint } from '../../../concurrency/failpoints.ts';
import type { ReadableImage } from '../../image-format.ts';
import { readBackingData } from '../backing.ts';
import type { RunReader } from './run-reader.ts';

/** A run that is no compressed one. */
type UncompressedRun =
  | { readonly status: 'data'; readonly length: number; readonly hostOffset: HostOffset }
  | { readonly status: 'zero' | 'unallocated'; readonly length: number };

/** Reads data from its place in the file, and decrypts it. */
export interface PlacedDataReader {
  read(target: Uint8Array, targetOffset: number, length: number, host: HostOffset, guest: GuestOffset): void;
}

/** Reads runs of bytes of one compressed cluster. */
export interface CompressedRunReader<Compressed> {
  readPart(run: Compressed, target: Uint8Array, targetOffset: number, offset: GuestOffset): void;
}

export class GuestDataReader<Compressed extends { readonly status: 'compressed' }>
  implements RunReader<UncompressedRun | Compressed>
{
  private readonly data: PlacedDataReader;
  private readonly compressed: CompressedRunReader<Compressed>;
  private readonly backing: ReadableImage | null;

  constructor(data: PlacedDataReader, compressed: CompressedRunReader<Compressed>, backing: ReadableImage | null) {
    this.data = data;
    this.compressed = compressed;
    this.backing = backing;
  }

  readRun(run: UncompressedRun | Compressed, target: Uint8Array, targetOffset: number, offset: GuestOffset): void {
    if (run.status === 'data') {
      failpoint('data-read');
      this.data.read(target, targetOffset, run.length, run.hostOffset, offset);
    } else if (run.status === 'compressed') {
      this.compressed.readPart(run, target, targetOffset, offset);
    } else if (run.status === 'unallocated' && this.backing !== null) {
      readBackingData(this.backing, target, targetOffset, run.length, offset);
    } else {
      target.fill(0, targetOffset, targetOffset + run.length);
    }
  }
}
