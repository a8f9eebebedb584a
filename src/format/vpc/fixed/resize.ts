// Changing the size of a fixed disk, whose footer moves. A footer that says what is going on, in bytes that the format does not use,
// lets the next open finish what a crash has cut short:
//
//   grow    new footer at the new end, "from OLD" -> S -> the old footer becomes zeros -> S -> new footer as it stays -> S
//   shrink  old footer, "to NEW" -> S -> footer at the new end -> S -> cut -> S
//
// If a crash comes between the length of a grown file and its footer, there is no footer at its end; header/moved-footer.ts finds the old
// one.

import { readU64BE, writeU64BE } from '../../../bytes/endian.ts';
import { hostOffset, SECTOR_BYTES } from '../../../bytes/offsets.ts';
import type { HostFile } from '../../../host/host-file.ts';
import type { WriteTracker } from '../../write-tracker.ts';
import { FOOTER_BYTES, FOOTER_CHECKSUM, footerOfSize, SHORT_FOOTER_BYTES, sign, textAt } from '../header/footer.ts';

/** In the reserved bytes at the end of a footer: what a resize is about to do, and the place it speaks of. */
const MARK = 480;
const PLACE = 488;
const GROWS = 'growfrom';
const SHRINKS = 'shrinkto';

/** A resize that was cut short. */
export type CutShort =
  /** `place`: of the old footer, which is part of the disk now */
  | { readonly kind: 'grow'; readonly place: number }
  /** `place`: where the disk ends already, whatever the footer's size says */
  | { readonly kind: 'shrink'; readonly place: number };

/** @param footer all of it @param size bytes of the disk by that footer */
export function cutShortIn(footer: Uint8Array, size: number): CutShort | null {
  const mark = textAt(footer, MARK, 8);
  const place = readU64BE(new DataView(footer.buffer, footer.byteOffset, footer.length), PLACE);
  if (!(place % SECTOR_BYTES === 0 && place < size)) return null;
  if (mark === GROWS) return { kind: 'grow', place };
  return mark === SHRINKS ? { kind: 'shrink', place } : null;
}

function marked(footer: Uint8Array, mark: string, place: number): Uint8Array {
  const bytes = footer.slice();
  bytes.set(Buffer.from(mark, 'latin1'), MARK);
  writeU64BE(new DataView(bytes.buffer), PLACE, place);
  return sign(bytes, FOOTER_CHECKSUM);
}

function unmarked(footer: Uint8Array): Uint8Array {
  const bytes = footer.slice();
  bytes.fill(0, MARK, PLACE + 8);
  return sign(bytes, FOOTER_CHECKSUM);
}

export interface FixedResizeParts {
  readonly file: HostFile;
  readonly tracker: Pick<WriteTracker, 'noteWrite' | 'sync' | 'writeMetadata'>;
  readonly oldSize: number;
  /** other threads see the size from now on */
  readonly setSize: (size: number) => void;
}

/** @returns the new footer */
export function resizeFixed(parts: FixedResizeParts, footer: Uint8Array, size: number): Uint8Array {
  if (size > parts.oldSize) return grow(parts, footer, size);
  return size < parts.oldSize ? shrink(parts, footer, size) : footer;
}

function grow({ file, oldSize, setSize, tracker }: FixedResizeParts, footer: Uint8Array, size: number): Uint8Array {
  const steps = stepsOn(file, tracker);
  const length = file.size();
  const wanted = footerOfSize(footer, size);
  const oldPlace = length - (length % SECTOR_BYTES === SHORT_FOOTER_BYTES ? SHORT_FOOTER_BYTES : FOOTER_BYTES);
  // a disk that its geometry makes smaller than its file
  if (oldPlace > oldSize) steps.wipe(oldSize, Math.min(oldPlace, size) - oldSize);
  try {
    steps.put(size > oldPlace ? marked(wanted, GROWS, oldPlace) : wanted, size);
  } catch (error) {
    // the old footer was not touched
    if (file.size() !== length) file.truncate(length);
    throw error;
  }
  if (size > oldPlace) {
    steps.wipe(oldPlace, Math.min(length, size) - oldPlace);
    steps.put(wanted, size);
  }
  if (file.size() > size + FOOTER_BYTES) steps.cut(size + FOOTER_BYTES);
  setSize(size);
  return wanted;
}

function shrink({ file, setSize, tracker }: FixedResizeParts, footer: Uint8Array, size: number): Uint8Array {
  const steps = stepsOn(file, tracker);
  steps.put(marked(footer, SHRINKS, size), file.size() - FOOTER_BYTES);
  setSize(size);
  const wanted = footerOfSize(footer, size);
  steps.put(wanted, size);
  steps.cut(size + FOOTER_BYTES);
  return wanted;
}

/** Each is durable when it returns. */
function stepsOn(file: HostFile, tracker: Pick<WriteTracker, 'noteWrite' | 'sync' | 'writeMetadata'>) {
  return {
    put(bytes: Uint8Array, at: number): void {
      tracker.writeMetadata('header-update', () => file.write(bytes, 0, FOOTER_BYTES, hostOffset(at)));
      tracker.sync();
    },
    wipe(from: number, length: number): void {
      if (length > 0) file.punchHole(hostOffset(from), length);
      tracker.sync();
    },
    cut(length: number): void {
      file.truncate(length);
      tracker.sync();
    },
  };
}

/** Finishes a resize that was cut short, before anybody uses the disk. @returns the footer as it is then */
export function finishResize(file: HostFile, footer: Uint8Array, size: number, { kind, place }: CutShort): Uint8Array {
  const put = (bytes: Uint8Array, at: number): void => {
    file.write(bytes, 0, FOOTER_BYTES, hostOffset(at));
    file.sync();
  };
  if (kind === 'grow') {
    file.punchHole(hostOffset(place), Math.min(FOOTER_BYTES, size - place));
    file.sync();
    const wanted = unmarked(footer);
    put(wanted, size);
    return wanted;
  }
  const wanted = footerOfSize(unmarked(footer), place);
  put(wanted, place);
  file.truncate(place + FOOTER_BYTES);
  file.sync();
  return wanted;
}
