// Changing the size of a disk: the last extent grows or shrinks, and its line in the descriptor says so. A line that a crash leaves
// behind is shorter than its extent, never longer; of an extent with tables its header is believed, so that this undoes a shrink:
//
//   grow     the extent (durable) -> its line
//   shrink   its line (durable) -> the extent

import { SECTOR_BYTES } from '../../bytes/offsets.ts';
import { closeQuietly } from '../../errors/close.ts';
import { ImgfuseError } from '../../errors/index.ts';
import { withSectors } from './descriptor/edit.ts';
import type { ExtentTable } from './extents.ts';
import { FlatExtent } from './flat/extent.ts';
import type { WritingSession } from './session.ts';

/** Of an extent whose name of the format says so. */
const TWO_GIB = 2 ** 31;

export interface VmdkResizeParts {
  readonly path: string;
  readonly extents: ExtentTable;
  readonly session: WritingSession;
  readonly createType: string;
}

/** @param diskBytes whole sectors; of what the disk has already only the line is written, if it says something else */
export function resizeVmdk({ createType, extents, path, session }: VmdkResizeParts, diskBytes: number): void {
  const { last } = extents;
  const bytes = diskBytes - last.start;
  const refuse = (kind: 'limit' | 'unsupported' | 'usage', what: string): never => {
    throw new ImgfuseError(kind, `${path} cannot have ${diskBytes} bytes: ${what}`, { path });
  };
  if (last.writer === null) return refuse('unsupported', 'its last extent is only read');
  if (extents.list.some((other) => other !== last && other.file === last.file)) {
    return refuse('unsupported', 'its last extent shares a file with another one; copy it into a new image');
  }
  if (diskBytes === 0) return refuse('usage', 'it has one sector of 512 bytes at least');
  if (bytes <= 0) {
    return refuse(
      'limit',
      `its last extent begins at ${last.start}, and only that one changes; copy it into a new image`,
    );
  }
  if (bytes > TWO_GIB && /^(twoGb|2Gb)/i.test(createType)) {
    return refuse(
      'limit',
      `it is ${createType}, and its last extent would be longer than 2 GiB; copy it into a new image`,
    );
  }
  const writeLine = (): void => writeSize({ extents, session }, diskBytes);
  const now = extents.end;
  if (diskBytes < now) writeLine();
  if (diskBytes !== now) last.writer.resize(bytes);
  if (diskBytes < now) return;
  try {
    writeLine();
  } catch (error) {
    // on a full host the line is as it was; after any other error it may say the new size, and must not be longer than its extent
    if (session.hasFailed && last.writer instanceof FlatExtent) last.writer.showSize(now - last.start);
    if (diskBytes > now && !session.hasFailed) closeQuietly([{ close: () => last.writer?.resize(now - last.start) }]);
    throw error;
  }
}

/** The line of the last extent says what that has; writes nothing if it does. A full host may have kept a resize from that. */
export function writeSize(
  { extents, session }: Pick<VmdkResizeParts, 'extents' | 'session'>,
  diskBytes = extents.end,
): void {
  const { last, list } = extents;
  const sectors = (diskBytes - last.start) / SECTOR_BYTES;
  session.edit((text) => withSectors(text, list.length - 1, sectors, diskBytes / SECTOR_BYTES));
}
