// COWD extents (VMFSSPARSE), the kind: snapshots of ESX. In the file they differ from hosted sparse extents by their header alone,
// so they are opened, written and checked as those are (sparse/).

import type { HostFile } from '../../../host/host-file.ts';
import type { ExtentKind } from '../extent.ts';
import { checkTables } from '../sparse/check/check.ts';
import { SparseExtent } from '../sparse/image.ts';
import type { TableKind } from '../sparse/layout.ts';
import { openTables } from '../sparse/open.ts';
import type { SparseState } from '../sparse/state.ts';
import { freeSectorFault, matchesCowd, readCowdLayout, writeCowdPlaces, writeFreeSector } from './header.ts';

export const cowd: Omit<Required<ExtentKind<SparseExtent>>, 'create'> = {
  type: 'VMFSSPARSE',
  title: 'a COWD extent (vmfsSparse)',
  matches: matchesCowd,
  inspect: (file: HostFile) => {
    const { capacity, grainBytes, isUnclean } = readCowdLayout(file);
    return { capacity, grainBytes, isUnclean, isCompressed: false, descriptor: null, onlyRead: null };
  },
  open: (file, options) => openTables(file, KIND, options),
  attach: (file, state, { backing, log, slot }) =>
    new SparseExtent(file, state as SparseState, slot, backing, log, KIND),
  check: (file, options) => checkTables(file, KIND, options),
};

const KIND: TableKind = {
  readLayout: readCowdLayout,
  writePlaces: writeCowdPlaces,
  fault: { find: freeSectorFault, repair: writeFreeSector },
};
