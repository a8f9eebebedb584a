// Hosted sparse extents (SPARSE, not compressed), the kind: monolithicSparse, twoGbMaxExtentSparse, and their snapshots.

import { writeU64LE } from '../../../bytes/endian.ts';
import { hostOffset, SECTOR_BYTES } from '../../../bytes/offsets.ts';
import { ImgfuseError } from '../../../errors/index.ts';
import type { HostFile } from '../../../host/host-file.ts';
import type { ExtentKind } from '../extent.ts';
import { checkTables } from './check/check.ts';
import { createSparse } from './create.ts';
import {
  CAPACITY_AT,
  factsOf,
  GD_AT_END,
  GD_OFFSET_AT,
  invalid,
  isCompressed,
  matchesSparse,
  RGD_OFFSET_AT,
  readHeader,
  SPARSE_HEADER_BYTES,
  type SparseHeader,
} from './header.ts';
import { SparseExtent } from './image.ts';
import { layoutOf, type NewPlaces, type TableKind } from './layout.ts';
import { openTables } from './open.ts';
import type { SparseState } from './state.ts';

/** A version 3 that is not compressed keeps changed block tracking in a file of its own, which a write here would make untrue. */
const TRACKED =
  'a VMDK extent of version 3 with changed block tracking, which a write would make untrue; use an overlay (-o overlay=FILE), or convert it';

export const sparse: Required<ExtentKind<SparseExtent>> = {
  type: 'SPARSE',
  title: 'a hosted sparse extent',
  matches: (head) => matchesSparse(head, false),
  inspect: (file) => {
    const header = readPlain(file);
    return factsOf(header, onlyReadOf(header));
  },
  open: (file, options) => {
    const header = readPlain(file);
    const why = onlyReadOf(header);
    if (why !== null && !options.readOnly) throw readOnlyError(file, why);
    return openTables(file, KIND, options);
  },
  attach: (file, state, { backing, log, slot }) =>
    new SparseExtent(file, state as SparseState, slot, backing, log, KIND),
  create: createSparse,
  check: (file, options) => {
    const why = onlyReadOf(readPlain(file));
    if (why === null || options.repair === 'none') return checkTables(file, KIND, options);
    const report = checkTables(file, KIND, { ...options, repair: 'none' });
    if (report.corruptions + report.leaks > 0) throw readOnlyError(file, why);
    return report;
  },
};

const KIND: TableKind = { readLayout: (file) => layoutOf(readPlain(file)), writePlaces };

function readOnlyError({ path }: HostFile, why: string): ImgfuseError {
  return new ImgfuseError('unsupported', `${path} is ${why}`, { path });
}

/** The header of an extent that is not compressed, with its directory in front. */
function readPlain(file: HostFile): SparseHeader {
  const header = readHeader(file);
  if (isCompressed(header)) throw invalid(file, 8, 'the extent is compressed');
  if (header.directoryOffset === GD_AT_END) throw invalid(file, GD_OFFSET_AT, 'the grain directory is in no footer');
  return header;
}

function onlyReadOf({ version }: SparseHeader): string | null {
  return version === 3 ? TRACKED : null;
}

/** One write of the header's sector. */
function writePlaces(file: HostFile, { capacity, directoryOffset, redundantOffset }: NewPlaces): void {
  const bytes = new Uint8Array(SPARSE_HEADER_BYTES);
  file.read(bytes, 0, bytes.length, hostOffset(0));
  const view = new DataView(bytes.buffer);
  writeU64LE(view, CAPACITY_AT, capacity / SECTOR_BYTES);
  writeU64LE(view, GD_OFFSET_AT, directoryOffset / SECTOR_BYTES);
  if (redundantOffset !== 0) writeU64LE(view, RGD_OFFSET_AT, redundantOffset / SECTOR_BYTES);
  file.write(bytes, 0, bytes.length, hostOffset(0));
}
