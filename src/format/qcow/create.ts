// A new, empty qcow image, as qemu-img lays it out: header, name of the backing file, L1 table. The header is written last, so that a
// file cut short by a crash is no image at all.

import { isAbsolute } from 'node:path';
import { bytesOfName } from '../../bytes/names.ts';
import { hostOffset, roundUp, SECTOR_BYTES } from '../../bytes/offsets.ts';
import { ImgfuseError } from '../../errors/index.ts';
import type { HostFile } from '../../host/host-file.ts';
import { refuseUnknownKeys } from '../create-option.ts';
import type { BackingReference, CreateOptions } from '../image-format.ts';
import { QCOW_CREATE_HELP } from './create-help.ts';
import { ENTRY_BYTES, Geometry } from './geometry.ts';
import { HEADER_BYTES, MAX_BACKING_NAME, MAX_L1_ENTRIES, type QcowHeader, serializeHeader } from './header.ts';

/** As qemu-img: small clusters over a backing file, because each is copied up as a whole. */
const ALONE = { clusterBits: 12, l2Bits: 9 } as const;
const OVER_BACKING = { clusterBits: 9, l2Bits: 12 } as const;

/** The size is rounded up to a multiple of 512 bytes. */
export function createQcow(file: HostFile, create: CreateOptions): void {
  const { options } = create;
  refuseSecrets(options);
  refuseUnknownKeys('qcow', QCOW_CREATE_HELP, options);
  const backing = backingOf(create);
  const name = backing === null ? null : storedName(file, backing, create.parent?.path);
  const bytes = bytesOfName(name ?? '').length;
  if (bytes > MAX_BACKING_NAME) {
    throw usage(`the backing file name has ${bytes} bytes; a qcow image holds at most ${MAX_BACKING_NAME}`);
  }
  const header: QcowHeader = {
    ...(backing === null ? ALONE : OVER_BACKING),
    size: roundUp(create.size, SECTOR_BYTES),
    isEncrypted: isEncrypted(options),
    l1TableOffset: roundUp(HEADER_BYTES + bytes, ENTRY_BYTES),
    backingName: name,
    backingOffset: name === null ? 0 : HEADER_BYTES,
  };
  // QEMU opens no empty one
  if (header.size === 0) throw new ImgfuseError('limit', 'a qcow image has one sector of 512 bytes at least');
  const { l1Entries, l2Coverage } = new Geometry(header);
  if (l1Entries > MAX_L1_ENTRIES) {
    throw new ImgfuseError(
      'limit',
      `a qcow image holds at most ${MAX_L1_ENTRIES * l2Coverage} bytes, not ${header.size}`,
    );
  }
  if (header.isEncrypted) create.log?.(weakness(file.path));
  // as qemu-img, whose L1 table takes whole sectors
  file.truncate(header.l1TableOffset + roundUp(l1Entries * ENTRY_BYTES, SECTOR_BYTES));
  file.sync();
  const start = serializeHeader(header);
  file.write(start, 0, start.length, hostOffset(0));
  file.sync();
}

function weakness(path: string): string {
  return `${path} is encrypted with AES-128 and the first 16 bytes of the password, which is weak; use qcow2 with encrypt.format=luks to keep a secret`;
}

function refuseSecrets(options: ReadonlyMap<string, string>): void {
  const secret = options.get('encrypt.key-secret');
  if (secret === undefined) return;
  throw usage(
    `encrypt.key-secret=${secret} names an object of QEMU, which imgfuse does not have; a password is given with --key-file, ` +
      '--key-env or at the prompt when the image is opened',
  );
}

function isEncrypted(options: ReadonlyMap<string, string>): boolean {
  const format = options.get('encrypt.format');
  if (format !== undefined && format !== 'aes') throw usage(`encrypt.format=${format} is not valid; use aes`);
  return format === 'aes';
}

function backingOf({ backing, options }: CreateOptions): BackingReference | null {
  if (backing !== undefined) return backing;
  const name = options.get('backing_file');
  const format = options.get('backing_fmt');
  if (name !== undefined) return { name, ...(format === undefined ? {} : { format }) };
  if (format === undefined) return null;
  throw usage(`backing_fmt=${format} is given without backing_file`);
}

/**
 * The image stores no format, and a file is never taken for a raw disk only because nothing else fits. A name of QEMU's json: form
 * says that it is one; such a name has to be absolute, because QEMU takes it relative to its working directory.
 */
export function storedName(
  { path }: HostFile,
  { format, name }: BackingReference,
  location: string | undefined,
): string {
  if (format !== 'raw' || name.startsWith('json:')) return name;
  const absolute = isAbsolute(name) ? name : location;
  if (absolute?.isWellFormed() === false) {
    throw usage(
      `${path} could not name its backing file ${name}: it is raw, so a qcow image names it in JSON, which has no place for a name that ` +
        'is not UTF-8; rename it, or make a qcow2 image',
    );
  }
  if (absolute !== undefined && isAbsolute(absolute)) {
    return `json:${JSON.stringify({ driver: 'raw', file: { driver: 'file', filename: absolute } })}`;
  }
  throw usage(
    `${path} could not say that its backing file ${name} is raw: a qcow image stores no format, only a name; give the absolute path ` +
      'of the file, or make a qcow2 image',
  );
}

function usage(sentence: string): ImgfuseError {
  return new ImgfuseError('usage', sentence);
}
