// What a VHD is, by its footers. The one at the end counts: whatever a fixed image has in its first sector is the guest's, and the
// copy at offset 0 of another image counts only if the one at the end is no footer. Both of them right and not the same means that
// a change was cut short: the smaller disk is what can be read.

import { hostOffset, SECTOR_BYTES } from '../../../bytes/offsets.ts';
import { ImgfuseError } from '../../../errors/index.ts';
import type { HostFile } from '../../../host/host-file.ts';
import { type CutShort, cutShortIn } from '../fixed/resize.ts';
import {
  DIFFERENCING,
  DYNAMIC,
  FIXED,
  FOOTER_BYTES,
  type Footer,
  MAX_DISK_BYTES,
  NO_UUID,
  POISON_COOKIE,
  parseFooter,
  SHORT_FOOTER_BYTES,
  textAt,
  VHD_VERSION,
} from './footer.ts';
import { type DynamicHeader, readHeader } from './header.ts';
import { findMovedFooter } from './moved-footer.ts';

export type Fault =
  /** the footer at the end is missing or damaged; its copy is not, or it was found where the disk ended before a resize */
  | 'trailer'
  /** the copy at the start is damaged; the footer at the end is not */
  | 'copy'
  /** both are right, and not the same */
  | 'unequal'
  /** no footer has a right checksum */
  | 'footer-checksum'
  | 'header-checksum';

export interface Layout {
  /** the one that counts */
  readonly footer: Footer;
  /** bytes of the disk */
  readonly size: number;
  /** null: fixed */
  readonly header: DynamicHeader | null;
  /** where the footer at the end begins; the length of the file if there is none */
  readonly trailerOffset: number;
  readonly faults: readonly Fault[];
  /** a resize of a fixed disk that the next read-write open finishes */
  readonly cutShort: CutShort | null;
}

/** Of a dynamic or differencing disk. */
export interface SparseLayout extends Layout {
  readonly header: DynamicHeader;
}

export function isSparse(layout: Layout): layout is SparseLayout {
  return layout.header !== null;
}

/** @throws ImgfuseError corrupt, unsupported: no disk can be read from the file */
export function readLayout(file: HostFile): Layout {
  const size = file.size();
  const trailer = trailerOf(file, size);
  if (trailer?.footer.isSound === true && trailer.footer.type === FIXED) return fixed(file, trailer, []);
  const copy = parseFooter(bytesAt(file, 0, FOOTER_BYTES));
  // the first sector of a fixed image is the guest's
  const head = copy !== null && copy.type !== FIXED ? copy : null;
  if (trailer?.footer.isSound === true) {
    if (head?.isSound !== true) return sparse(file, trailer.footer, trailer.offset, ['copy']);
    if (isSameFooter(head, trailer.footer, size - trailer.offset))
      return sparse(file, trailer.footer, trailer.offset, []);
    const smaller = head.size < trailer.footer.size ? head : trailer.footer;
    return sparse(file, smaller, trailer.offset, ['unequal']);
  }
  if (head?.isSound === true) return sparse(file, head, trailer?.offset ?? size, ['trailer']);
  const moved = findMovedFooter(file);
  if (moved !== null) return fixed(file, { footer: moved, offset: moved.size }, ['trailer']);
  if (trailer?.footer.type === FIXED) return fixed(file, trailer, ['footer-checksum']);
  const damaged = trailer?.footer ?? head;
  if (damaged !== undefined && damaged !== null)
    return sparse(file, damaged, trailer?.offset ?? size, ['footer-checksum']);
  throw invalid(file, 'it has no footer, neither at its end nor at its start; it was cut, or is no VHD');
}

interface Trailer {
  readonly footer: Footer;
  readonly offset: number;
}

/** The footer at the end of the file, if it has the cookie of one. */
function trailerOf(file: HostFile, size: number): Trailer | null {
  const tail = bytesAt(file, Math.max(0, size - FOOTER_BYTES), FOOTER_BYTES);
  for (const bytes of [tail, bytesAt(file, 0, FOOTER_BYTES)]) {
    if (textAt(bytes, 0, 8) === POISON_COOKIE)
      throw invalid(file, 'its footer says that nobody must use it ("v_poison")');
  }
  for (const length of [FOOTER_BYTES, SHORT_FOOTER_BYTES]) {
    if (tail.length < length) continue;
    const footer = parseFooter(tail.subarray(tail.length - length));
    if (footer !== null) return { footer, offset: size - length };
  }
  return null;
}

function bytesAt(file: HostFile, offset: number, length: number): Uint8Array {
  const bytes = new Uint8Array(length);
  return bytes.subarray(0, file.read(bytes, 0, length, hostOffset(offset)));
}

function isSameFooter(one: Footer, other: Footer, length: number): boolean {
  return Buffer.compare(one.bytes.subarray(0, length), other.bytes.subarray(0, length)) === 0;
}

function fixed(file: HostFile, { footer, offset }: Trailer, faults: readonly Fault[]): Layout {
  checkFooter(file, footer, offset);
  if (footer.size > offset && !file.readOnly) {
    throw invalid(
      file,
      `its footer says that the disk has ${footer.size} bytes, and the file has ${offset} before it; it was cut: copy it again, or ` +
        'mount it with -o ro',
    );
  }
  const cutShort = cutShortIn(footer.bytes, footer.size);
  const size = cutShort?.kind === 'shrink' ? cutShort.place : footer.size;
  return { footer, size, header: null, trailerOffset: offset, faults, cutShort };
}

function sparse(file: HostFile, footer: Footer, trailerOffset: number, faults: readonly Fault[]): Layout {
  checkFooter(file, footer, trailerOffset);
  const header = readHeader(file, footer.headerOffset, footer.size);
  if (footer.type === DIFFERENCING && header.parentUuid === footer.uuid && footer.uuid !== NO_UUID) {
    throw invalid(file, 'it names itself as its parent');
  }
  const all: Fault[] = header.isSound ? [...faults] : [...faults, 'header-checksum'];
  return { footer, size: footer.size, header, trailerOffset, faults: all, cutShort: null };
}

function checkFooter(file: HostFile, footer: Footer, offset: number): void {
  if (footer.version >>> 16 !== VHD_VERSION >>> 16) {
    throw new ImgfuseError(
      'unsupported',
      `${file.path}: the version of its footer is 0x${footer.version.toString(16)}, and version 1 is known; open it with the ` +
        'program that wrote it',
      { path: file.path, offset },
    );
  }
  if (![FIXED, DYNAMIC, DIFFERENCING].includes(footer.type)) {
    throw invalid(file, `its footer has the disk type ${footer.type}; 2 is fixed, 3 dynamic, 4 differencing`);
  }
  if (!(footer.size <= MAX_DISK_BYTES) || footer.size % SECTOR_BYTES !== 0) {
    throw invalid(
      file,
      `its footer says that the disk has ${footer.size} bytes; a disk has whole sectors, and at most ${MAX_DISK_BYTES} bytes`,
    );
  }
}

/** What a fault is, as a sentence without the name of the file, and what a repair does. */
export const FAULTS: Readonly<Record<Fault, { readonly what: string; readonly repair: string }>> = {
  trailer: { what: 'the footer at the end is missing or damaged', repair: 'written again from the other one' },
  copy: { what: 'the copy of the footer at the start is damaged', repair: 'written again from the footer at the end' },
  unequal: {
    what: 'the footer at the end and its copy at the start are not the same',
    repair: 'the one with the smaller disk counts, and was written to both places',
  },
  'footer-checksum': { what: 'no footer has a right checksum', repair: 'the checksum was set right' },
  'header-checksum': { what: 'the checksum of the header is wrong', repair: 'the checksum was set right' },
};

/** Faults whose repair can do no harm: one of two copies is right. */
export const HARMLESS: readonly Fault[] = ['trailer', 'copy'];

/** How info names the three kinds. */
export function subformatOf(type: number): string {
  return type === FIXED ? 'fixed' : type === DYNAMIC ? 'dynamic' : 'differencing';
}

function invalid(file: HostFile, what: string): ImgfuseError {
  return new ImgfuseError('corrupt', `${file.path}: ${what}`, { path: file.path });
}
