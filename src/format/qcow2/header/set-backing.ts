// Names another backing file in the header. Source: QEMU docs/interop/qcow2. The name and the format of the backing file change
// together, with one write inside the first sector: a crash leaves both old or both new. All else that the new header needs
// is written and synced before, to bytes of cluster 0 that the old one does not use.
//
//   fields | extensions: backing format first | name        usual: only the first sector changes, and free bytes behind it
//   fields | (old extensions, name) | extensions | name     if extensions beyond the first sector have to move: header_length leads
//                                                           to a copy behind the old ones, and then back to the usual place

import { bytesOfName } from '../../../bytes/names.ts';
import { hostOffset, roundUp, SECTOR_BYTES } from '../../../bytes/offsets.ts';
import { ImgfuseError } from '../../../errors/index.ts';
import { type HostFile, readPadded } from '../../../host/host-file.ts';
import type { BackingReference } from '../../image-format.ts';
import { FIELD, MAX_BACKING_NAME, type Qcow2Header } from './header.ts';
import {
  extensionBytes,
  type HeaderExtension,
  MAX_BACKING_FORMAT_BYTES,
  QCOW2_EXT_MAGIC_BACKING_FORMAT,
  serializeExtensions,
} from './header-extension.ts';
import { readHeader } from './read-header.ts';

/** The variable part of a header, at one place in cluster 0. */
interface Placement {
  /** where the extensions begin: header_length */
  readonly start: number;
  readonly nameAt: number;
}

/** @throws ImgfuseError limit, unsupported: then nothing is changed */
export function setQcow2Backing(file: HostFile, backing: BackingReference | null): void {
  const header = readHeader(file, { readOnly: false });
  assertPossible(file, header, backing);
  const change = new HeaderChange(file, header, backing);
  if (change.inPlace(header.headerLength)) return;
  change.byCopy();
}

function assertPossible(file: HostFile, header: Qcow2Header, backing: BackingReference | null): void {
  if (backing === null) return;
  const { path } = file;
  if (header.dataFileRaw) {
    const message = `${path} keeps its disk in a raw data file, which has everything, so it cannot have a backing file`;
    throw new ImgfuseError('unsupported', message, { path });
  }
  const name = bytesOfName(backing.name).length;
  if (name > MAX_BACKING_NAME) {
    const message = `the backing file name has ${name} bytes, and a qcow2 image holds at most ${MAX_BACKING_NAME}; use a relative name`;
    throw new ImgfuseError('limit', message, { path });
  }
  const format = bytesOfName(backing.format ?? '').length;
  if (format <= MAX_BACKING_FORMAT_BYTES) return;
  throw new ImgfuseError('limit', `the format name ${backing.format} is too long for ${path}`, { path });
}

class HeaderChange {
  private readonly file: HostFile;
  private readonly header: Qcow2Header;
  private readonly name: Uint8Array;
  private readonly extensions: readonly HeaderExtension[];
  /** cluster 0 as it is in the file */
  private bytes: Uint8Array;
  /** the first byte behind what the header in the file uses */
  private usedEnd: number;

  constructor(file: HostFile, header: Qcow2Header, backing: BackingReference | null) {
    this.file = file;
    this.header = header;
    this.name = bytesOfName(backing?.name ?? '');
    this.extensions = withBackingFormat(header.extensions, backing?.format);
    this.bytes = new Uint8Array(header.clusterSize);
    readPadded(file, this.bytes, 0, this.bytes.length, hostOffset(0));
    const view = new DataView(this.bytes.buffer);
    const nameEnd = view.getUint32(FIELD.backingOffset + 4, false) + view.getUint32(FIELD.backingSize, false);
    this.usedEnd = Math.max(header.headerLength + extensionBytes(header.extensions), nameEnd);
  }

  /** Puts the extensions at `start`. @returns false if that would need more than one step, and has changed nothing */
  inPlace(start: number): boolean {
    const extensionsEnd = start + extensionBytes(this.extensions);
    const places = [extensionsEnd, roundUp(Math.max(extensionsEnd, this.usedEnd), 8)];
    for (const nameAt of places) {
      const wanted = this.with({ start, nameAt });
      if (wanted === null || !this.isOneStep(wanted)) continue;
      this.write(wanted);
      return true;
    }
    return false;
  }

  /** Two steps: to a copy behind all that is used, and from there to the usual place, which is free then. */
  byCopy(): void {
    const { file, header } = this;
    const extensionsBytes = extensionBytes(this.extensions);
    const usualEnd = header.headerLength + extensionsBytes + this.name.length;
    // with less room the copy stays what the header uses
    const places = header.version === 2 ? [] : [Math.max(this.usedEnd, usualEnd), this.usedEnd];
    for (const place of places) {
      const start = roundUp(place, 8);
      const copied = this.with({ start, nameAt: start + extensionsBytes });
      if (copied === null) continue;
      this.write(copied);
      const usual = this.with({ start: header.headerLength, nameAt: header.headerLength + extensionsBytes });
      if (usual !== null && usualEnd <= start) this.write(usual);
      return;
    }
    const { path } = file;
    throw new ImgfuseError(
      'limit',
      `${path} has no room in its header to change the backing file safely: name and extensions share a cluster of ` +
        `${header.clusterSize} bytes; use a shorter, relative name, or copy the disk into an image with larger clusters`,
      { path },
    );
  }

  /** Cluster 0 with the variable part at this place; null if it does not fit. */
  private with({ start, nameAt }: Placement): Uint8Array | null {
    if (nameAt + this.name.length > this.bytes.length) return null;
    const wanted = this.bytes.slice();
    const view = new DataView(wanted.buffer);
    view.setUint32(FIELD.backingOffset, 0, false);
    view.setUint32(FIELD.backingOffset + 4, this.name.length === 0 ? 0 : nameAt, false);
    view.setUint32(FIELD.backingSize, this.name.length, false);
    if (this.header.version === 3) view.setUint32(FIELD.headerLength, start, false);
    wanted.set(serializeExtensions(this.extensions), start);
    wanted.set(this.name, nameAt);
    return wanted;
  }

  /** Behind the first sector only bytes change that the header in the file does not use. */
  private isOneStep(wanted: Uint8Array): boolean {
    for (let at = SECTOR_BYTES; at < this.usedEnd; at++) if (wanted[at] !== this.bytes[at]) return false;
    return true;
  }

  /** First what lies behind the first sector, then that sector; durable when it returns. */
  private write(wanted: Uint8Array): void {
    const { bytes, file } = this;
    const isChanged = (at: number): boolean => wanted[at] !== bytes[at];
    let first = SECTOR_BYTES;
    let last = wanted.length - 1;
    while (first <= last && !isChanged(first)) first++;
    while (last >= first && !isChanged(last)) last--;
    if (first <= last) {
      file.write(wanted, first, last + 1 - first, hostOffset(first));
      file.sync();
    }
    file.write(wanted, 0, Math.min(SECTOR_BYTES, wanted.length), hostOffset(0));
    file.sync();
    this.bytes = wanted;
  }
}

/** The format comes first, so that its extension lies in the first sector. */
function withBackingFormat(extensions: readonly HeaderExtension[], format: string | undefined): HeaderExtension[] {
  const others = extensions.filter(({ type }) => type !== QCOW2_EXT_MAGIC_BACKING_FORMAT);
  if (format === undefined) return others;
  return [{ type: QCOW2_EXT_MAGIC_BACKING_FORMAT, data: bytesOfName(format), offset: 0 }, ...others];
}
