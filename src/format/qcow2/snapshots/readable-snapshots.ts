// Which internal snapshots of an image can be read: those whose entry and L1 table are sound. Any other is left out with a
// sentence, and the image is opened all the same. Invariant: memory and time are bounded whatever the table says; what the L2
// tables of a snapshot say is checked by the read that meets it (R10).

import { printable } from '../../../bytes/printable.ts';
import { describeError, ImgfuseError, isCorrupt } from '../../../errors/index.ts';
import type { HostFile } from '../../../host/host-file.ts';
import type { SnapshotDetails } from '../../image-format.ts';
import { L1_ENTRY_BYTES, l1EntriesFor } from '../geometry.ts';
import type { Qcow2Header } from '../header/header.ts';
import { checkSnapshotL1, type Snapshot, snapshotEntries } from '../header/snapshot-table.ts';
import type { PlacedSnapshot } from '../state.ts';

/** Snapshots that are shown of one image; each takes some memory in every thread. */
export const MAX_READABLE_SNAPSHOTS = 4096;
/** Characters of an id or a name; QEMU makes ids of 127 bytes and names of 255 at most. */
const MAX_TEXT_LENGTH = 255;
/** Sentences about single snapshots. */
const MAX_SENTENCES = 8;

/** @param log called once per sentence */
export function readableSnapshots(
  file: HostFile,
  header: Qcow2Header,
  log: (sentence: string) => void,
): readonly PlacedSnapshot[] {
  const { snapshotCount } = header;
  if (snapshotCount === 0) return [];
  if (header.hasExternalData) {
    log(`${file.path} has snapshots and an external data file, which keeps no old data; the snapshots are not shown`);
    return [];
  }
  const found: PlacedSnapshot[] = [];
  let leftOut = 0;
  const leaveOut = (sentence: string): void => {
    if (leftOut++ < MAX_SENTENCES) log(sentence);
  };
  try {
    for (const { snapshot } of snapshotEntries(file, header)) {
      if (found.length === MAX_READABLE_SNAPSHOTS) {
        log(`${file.path} has ${snapshotCount} snapshots; the first ${MAX_READABLE_SNAPSHOTS} are shown`);
        break;
      }
      try {
        assertReadable(file, header, snapshot);
        found.push(placed(snapshot));
      } catch (error) {
        if (!isCorrupt(error)) throw error;
        leaveOut(`a snapshot is not shown: ${describeError(error)}`);
      }
    }
  } catch (error) {
    if (!isCorrupt(error)) throw error;
    log(`${found.length} of ${snapshotCount} snapshots are shown: ${describeError(error)}`);
  }
  if (leftOut > MAX_SENTENCES) log(`${file.path}: ${leftOut - MAX_SENTENCES} more snapshots are not shown`);
  return found;
}

function placed({ l1Size, l1TableOffset, diskSize, entryOffset: _, ...details }: Snapshot): PlacedSnapshot {
  return { ...details, virtualSize: diskSize, l1Table: { offset: l1TableOffset, entries: l1Size } };
}

/** @throws ImgfuseError corrupt */
function assertReadable(file: HostFile, header: Qcow2Header, snapshot: Snapshot): void {
  const { clusterSize, extendedL2, l1Size: activeEntries, refcountTableClusters, refcountTableOffset } = header;
  const { diskSize, id, l1Size, l1TableOffset, name } = snapshot;
  const { path } = file;
  const refuse = (what: string): never => {
    const context = { path, offset: snapshot.entryOffset };
    throw new ImgfuseError('corrupt', `${path}: the snapshot "${calledSnapshot(snapshot)}" ${what}`, context);
  };
  if (id.length > MAX_TEXT_LENGTH || name.length > MAX_TEXT_LENGTH) {
    refuse(`has an id or a name of more than ${MAX_TEXT_LENGTH} characters`);
  }
  checkSnapshotL1(file, clusterSize, snapshot);
  if (!Number.isSafeInteger(diskSize) || l1EntriesFor(diskSize, clusterSize, extendedL2) > l1Size) {
    refuse(`says that its disk has ${diskSize} bytes, and the ${l1Size} entries of its L1 table map fewer`);
  }
  const isIn = (offset: number, bytes: number): boolean =>
    l1TableOffset < offset + bytes && offset < l1TableOffset + l1Size * L1_ENTRY_BYTES;
  // a table that changes with the disk is no snapshot
  if (isIn(header.l1TableOffset, activeEntries * L1_ENTRY_BYTES)) refuse('has its L1 table in that of the image');
  if (isIn(refcountTableOffset, refcountTableClusters * clusterSize)) refuse('has its L1 table in the refcount table');
}

/** What a sentence calls it. */
export function calledSnapshot({ id, name }: Pick<SnapshotDetails, 'id' | 'name'>): string {
  return printable((name === '' ? id : name).slice(0, 80));
}
