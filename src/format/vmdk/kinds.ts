// The kinds of extents that have tables of their own, and how a file is told to be one.

import { hostOffset, SECTOR_BYTES } from '../../bytes/offsets.ts';
import type { HostFile } from '../../host/host-file.ts';
import { cowd } from './cowd/index.ts';
import type { ExtentKind } from './extent.ts';
import { sesparse } from './sesparse/index.ts';
import { sparse } from './sparse/index.ts';
import { stream } from './stream/index.ts';

export const EXTENT_KINDS: readonly ExtentKind[] = [sparse, stream, cowd, sesparse];

/** null if the file has the magic of none. */
export function kindOf(file: HostFile): ExtentKind | null {
  const head = new Uint8Array(SECTOR_BYTES);
  const length = file.read(head, 0, head.length, hostOffset(0));
  return EXTENT_KINDS.find((kind) => kind.matches(head.subarray(0, length))) ?? null;
}

/** The kind of the extents that are made. */
export function createdKind(): Required<ExtentKind> {
  return sparse;
}
