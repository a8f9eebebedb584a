// The bytes of the log, sector by sector, as they are in the file. What lies behind the end of the file reads as zeros.

import { hostOffset } from '../../../bytes/offsets.ts';
import { type HostFile, readPadded } from '../../../host/host-file.ts';
import type { VhdxHeader } from '../header/header.ts';

export const LOG_SECTOR_BYTES = 4096;
const BUFFER_BYTES = 256 * 1024;

export class LogRing {
  readonly length: number;
  private readonly file: HostFile;
  private readonly start: number;
  private readonly buffer = new Uint8Array(BUFFER_BYTES);
  private loaded = -1;

  constructor(file: HostFile, { logLength, logOffset }: Pick<VhdxHeader, 'logLength' | 'logOffset'>) {
    this.file = file;
    this.start = logOffset;
    this.length = logLength;
  }

  /** @param offset a multiple of a sector; goes on at the start of the ring @returns bytes that are void after the next call */
  sector(offset: number): Uint8Array {
    const inRing = offset % this.length;
    const inBuffer = inRing % BUFFER_BYTES;
    const wanted = inRing - inBuffer;
    if (wanted !== this.loaded) {
      this.loaded = -1;
      readPadded(this.file, this.buffer, 0, BUFFER_BYTES, hostOffset(this.start + wanted));
      this.loaded = wanted;
    }
    return this.buffer.subarray(inBuffer, inBuffer + LOG_SECTOR_BYTES);
  }
}
