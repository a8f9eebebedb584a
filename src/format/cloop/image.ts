// An open cloop image, read-only. All of its disk is data: zeros are compressed like anything else.

import { after, type GuestOffset } from '../../bytes/offsets.ts';
import { CompressedPieces } from '../../codec/compressed-pieces.ts';
import { decompressZlib } from '../../codec/zlib.ts';
import { isCorrupt } from '../../errors/index.ts';
import type { HostFile } from '../../host/host-file.ts';
import { type CheckReport, emptyCheckReport, limitedLog } from '../check-report.ts';
import {
  type CheckOptions,
  type Extent,
  type ImageDetails,
  type ImageFile,
  onlyFile,
  type ReadOnlyImage,
  type SharedImage,
  type StatusRun,
  shareImage,
} from '../image-format.ts';
import { type CloopHeader, readBlock, readHeader } from './header.ts';

export function openCloop(file: HostFile): CloopImage {
  return new CloopImage(file, readHeader(file));
}

export class CloopImage implements ReadOnlyImage {
  readonly format = 'cloop';
  readonly readOnly = true;
  readonly backing = null;
  readonly file: HostFile;
  readonly files: readonly ImageFile[];
  readonly clusterSize: number;
  private readonly header: CloopHeader;
  private readonly blocks: CompressedPieces;

  constructor(file: HostFile, header: CloopHeader) {
    this.file = file;
    this.files = onlyFile(file);
    this.header = header;
    this.clusterSize = header.blockSize;
    this.blocks = new CompressedPieces(file, 'block');
  }

  virtualSize(): number {
    return diskBytes(this.header);
  }

  allocatedBytes(): number {
    return diskBytes(this.header);
  }

  read(target: Uint8Array, targetOffset: number, length: number, offset: GuestOffset): void {
    for (let done = 0; done < length; ) {
      const at = after(offset, done);
      const inBlock = at % this.clusterSize;
      const block = this.block((at - inBlock) / this.clusterSize);
      const part = Math.min(length - done, block.length - inBlock);
      target.set(block.subarray(inBlock, inBlock + part), targetOffset + done);
      done += part;
    }
  }

  /** The decompressed block, which belongs to the cache. */
  block(index: number): Uint8Array {
    return this.blocks.read(index, () => readBlock(this.file, this.header, index), decompressZlib);
  }

  map(offset: GuestOffset, length: number): Extent {
    return { start: offset, status: 'data', length };
  }

  mapStatus(_offset: GuestOffset, length: number): StatusRun {
    return { status: 'data', length };
  }

  mapContent(_offset: GuestOffset, length: number): StatusRun {
    return { status: 'data', length };
  }

  close(): void {}

  /** A dead thread leaves nothing behind: threads hold no locks here. */
  abandon(): void {}

  details(): ImageDetails {
    return describeHeader(this.header);
  }

  share(): SharedImage {
    return shareImage(this, this.header);
  }
}

export function describeHeader(header: CloopHeader): ImageDetails {
  const { blockSize } = header;
  return { format: 'cloop', virtualSize: diskBytes(header), clusterSize: blockSize, dirty: false, specific: {} };
}

function diskBytes({ blocks, blockSize }: CloopHeader): number {
  return blocks * blockSize;
}

/** Decompresses every block, whose checksum zlib compares. There is nothing to repair a damaged one from. */
export function checkCloop(file: HostFile, options: CheckOptions): CheckReport {
  const header = readHeader(file);
  const image = new CloopImage(file, header);
  const log = limitedLog(options.log);
  const report = emptyCheckReport('cloop');
  report.totalClusters = header.blocks;
  report.allocatedClusters = header.blocks;
  report.compressedClusters = header.blocks;
  report.imageEndOffset = header.tableEnd;
  for (let index = 0; index < header.blocks; index++) {
    try {
      const { hostOffset, storedBytes } = readBlock(file, header, index);
      report.imageEndOffset = Math.max(report.imageEndOffset, hostOffset + storedBytes);
      image.block(index);
    } catch (error) {
      if (!isCorrupt(error)) throw error;
      report.corruptions++;
      log(`ERROR ${(error as Error).message}`);
    }
    options.progress?.((index + 1) / header.blocks);
  }
  return report;
}
