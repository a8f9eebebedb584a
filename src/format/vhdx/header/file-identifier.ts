// The file type identifier: the first 64 KiB of a VHDX, which no writer changes once the file is made. It has the name of the program
// that made it, which nobody needs.

import { ImgfuseError } from '../../../errors/index.ts';
import type { HostFile } from '../../../host/host-file.ts';
import { FILE_SIGNATURE } from '../signature.ts';
import { bytesAt, textAt } from './fields.ts';

const CREATOR = 'imgfuse';

/** @throws ImgfuseError corrupt */
export function checkFileIdentifier(file: HostFile): void {
  const { bytes } = bytesAt(file, 0, FILE_SIGNATURE.length);
  if (textAt(bytes, 0, FILE_SIGNATURE.length) === FILE_SIGNATURE) return;
  const { path } = file;
  throw new ImgfuseError('corrupt', `${path} does not begin with "${FILE_SIGNATURE}"; it is no VHDX image`, { path });
}

export function serializeFileIdentifier(): Uint8Array {
  const signature = Buffer.from(FILE_SIGNATURE, 'latin1');
  return Uint8Array.from(Buffer.concat([signature, Buffer.from(CREATOR, 'utf16le')]));
}
