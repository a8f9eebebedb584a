// Opening a VHDX. It checks headers, log, regions and metadata; each entry of the table is checked by the read that meets it.

import { hostOffset } from '../../bytes/offsets.ts';
import type { HostFile } from '../../host/host-file.ts';
import type { ImageDetails, OpenOptions } from '../image-format.ts';
import { COUNTED_TABLE_BYTES, clustersOnHost, possibleClusters } from '../mapped/host-clusters.ts';
import { createMappedState } from '../mapped/mapped-state.ts';
import { hasPlace, stateOf } from './bat.ts';
import { ENTRY_BYTES, Geometry } from './geometry.ts';
import { invalid } from './header/fields.ts';
import { type Layout, readLayout } from './header/layout.ts';
import { referenceTo } from './header/locator.ts';
import { VhdxImage } from './image.ts';
import { takenIn } from './places.ts';

const CHUNK_BYTES = 64 * 1024;

export function openVhdx(file: HostFile, options: OpenOptions): VhdxImage {
  const layout = readSoundLayout(file);
  const { disk, regions, replay, view } = layout;
  const { blockBytes, parent, virtualSize } = disk;
  const backing = parent === null ? null : options.openBacking(referenceTo(parent));
  sayLog(file, layout, options.log);
  const fileLength = view.size();
  const allocatedBlocks =
    options.isLazy === true
      ? clustersOnHost(file, virtualSize, blockBytes)
      : (countAllocated(layout) ?? possibleClusters(file, virtualSize, blockBytes));
  const size = { virtualSize, fileLength, readOnly: true, allocatedClusters: allocatedBlocks };
  const state = {
    ...createMappedState(
      { ...options, ...size },
      { clusterSize: blockBytes, wordCount: 1, numberCount: 2, sliceBytes: 4096 },
    ),
    ...{ disk, replay, fileLength, allocatedBlocks },
    details: detailsOf(layout),
    batOffset: regions.bat.start,
    taken: takenIn(layout),
  };
  return new VhdxImage(file, state, backing);
}

/** As readLayout(), and the table has an entry for every block. */
export function readSoundLayout(file: HostFile): Layout {
  const layout = readLayout(file);
  const { bat } = layout.regions;
  const { entryCount } = new Geometry(layout.disk);
  if (entryCount * ENTRY_BYTES <= bat.end - bat.start) return layout;
  throw invalid(
    file,
    bat.start,
    `its block allocation table has room for ${(bat.end - bat.start) / ENTRY_BYTES} entries, and the disk needs ${entryCount}`,
  );
}

export function detailsOf({ disk, headers }: Layout): ImageDetails {
  return {
    format: 'vhdx',
    virtualSize: disk.virtualSize,
    clusterSize: disk.blockBytes,
    dirty: headers.current.logGuid !== null,
    identity: headers.current.dataWriteGuid,
    ...(disk.parent === null ? {} : { backing: referenceTo(disk.parent) }),
    specific: {},
  };
}

export function sayLog({ path }: HostFile, { headers, replay }: Layout, log: (sentence: string) => void): void {
  if (replay !== null) {
    const entries = `${replay.entries} ${replay.entries === 1 ? 'entry' : 'entries'}`;
    log(`${path} was not closed; what its log holds (${entries}) is read as if it had been carried out`);
  } else if (headers.current.logGuid !== null) {
    log(`${path} was not closed, and its log has no valid entry; it is read as it is`);
  }
}

/** @returns null if there are so many entries that counting would take a noticeable time */
function countAllocated({ disk, regions, view }: Layout): number | null {
  const geometry = new Geometry(disk);
  const bytes = geometry.entryCount * ENTRY_BYTES;
  if (bytes > COUNTED_TABLE_BYTES) return null;
  const chunk = new Uint8Array(Math.min(CHUNK_BYTES, bytes));
  const words = new DataView(chunk.buffer);
  let count = 0;
  for (let done = 0; done < bytes; done += chunk.length) {
    const part = Math.min(chunk.length, bytes - done);
    const got = view.read(chunk, 0, part, hostOffset(regions.bat.start + done));
    for (let at = 0; at + ENTRY_BYTES <= got; at += ENTRY_BYTES) {
      const isData = hasPlace(stateOf(words.getUint32(at, true)));
      if (isData && !geometry.isBitmapEntry((done + at) / ENTRY_BYTES)) count++;
    }
  }
  return count;
}
