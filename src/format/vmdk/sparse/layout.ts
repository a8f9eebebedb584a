// Where the tables of an extent are, whatever kind of header says it: hosted sparse and COWD extents differ in nothing else. Every
// number here is bytes; structured-clonable, because all threads of an open extent share it.

import { roundUp, SECTOR_BYTES } from '../../../bytes/offsets.ts';
import type { HostFile } from '../../../host/host-file.ts';
import {
  directoryEntriesOf,
  ENTRY_BYTES,
  GD_AT_END,
  SPARSE_HEADER_BYTES,
  SPARSEFLAG_ZERO_GRAINS,
  type SparseHeader,
  UNCLEAN_AT,
} from './header.ts';

/** Bytes [start, end) of a file. */
export interface Stretch {
  readonly start: number;
  readonly end: number;
}

export interface TableLayout {
  readonly kind: 'SPARSE' | 'VMFSSPARSE';
  readonly capacity: number;
  readonly grainBytes: number;
  /** of a grain table */
  readonly tableEntries: number;
  readonly directoryOffset: number;
  /** 0: the tables have no second copy */
  readonly redundantOffset: number;
  /** an entry of 1 stands for zeros */
  readonly hasZeroGrains: boolean;
  readonly isUnclean: boolean;
  /** where the mark of an extent that is not closed clean is: one byte, the others of its field are zeros */
  readonly uncleanAt: number;
  /** where the header says which sector is allocated next; null: nowhere */
  readonly freeSectorAt: number | null;
  /** header and descriptor */
  readonly fixed: readonly Stretch[];
  /** the file must not be shorter */
  readonly leastBytes: number;
}

/** What a resize writes to the header. */
export interface NewPlaces {
  readonly capacity: number;
  readonly directoryEntries: number;
  readonly directoryOffset: number;
  readonly redundantOffset: number;
}

/** What the kinds do in their own way. */
export interface TableKind {
  /** @throws ImgfuseError corrupt, unsupported */
  readonly readLayout: (file: HostFile) => TableLayout;
  /** One write within a sector. */
  readonly writePlaces: (file: HostFile, places: NewPlaces) => void;
  /** What can be wrong beside the tables, once it is known where all that is in use ends. */
  readonly fault?: {
    /** @returns the sentence; null: nothing is wrong */
    readonly find: (file: HostFile, usedEnd: number) => string | null;
    readonly repair: (file: HostFile, usedEnd: number) => void;
  };
}

/** @param header whose directory does not stand in a footer */
export function layoutOf(header: SparseHeader): TableLayout {
  const { capacity, descriptorBytes, descriptorOffset, flags, grainBytes, isUnclean, tableEntries } = header;
  const directoryOffset = header.directoryOffset === GD_AT_END ? 0 : header.directoryOffset;
  const redundantOffset = header.redundantOffset === directoryOffset ? 0 : header.redundantOffset;
  const descriptor =
    descriptorOffset === 0 ? [] : [{ start: descriptorOffset, end: descriptorOffset + descriptorBytes }];
  return {
    kind: 'SPARSE',
    ...{ capacity, grainBytes, tableEntries, directoryOffset, redundantOffset, isUnclean },
    hasZeroGrains: (flags & SPARSEFLAG_ZERO_GRAINS) !== 0,
    uncleanAt: UNCLEAN_AT,
    freeSectorAt: null,
    fixed: [{ start: 0, end: SPARSE_HEADER_BYTES }, ...descriptor],
    leastBytes: header.overheadBytes,
  };
}

/** Entries of the grain directory. */
export function directoryEntries(layout: Pick<TableLayout, 'capacity' | 'grainBytes' | 'tableEntries'>): number {
  return directoryEntriesOf(layout);
}

/** Header, descriptor and directories: what no grain and no table may overlap. */
export function metadataOf(layout: TableLayout): readonly Stretch[] {
  const bytes = roundUp(directoryEntries(layout) * ENTRY_BYTES, SECTOR_BYTES);
  const directories = [layout.directoryOffset, layout.redundantOffset]
    .filter((offset) => offset !== 0)
    .map((start) => ({ start, end: start + bytes }));
  return [...layout.fixed, ...directories];
}

export function overlapsAny(stretches: readonly Stretch[], start: number, end: number): boolean {
  return stretches.some((stretch) => start < stretch.end && end > stretch.start);
}
