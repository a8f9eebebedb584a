// Copies clusters inside an image file.

import { after, type HostOffset, hostOffset } from '../../../bytes/offsets.ts';
import type { HostFile } from '../../../host/host-file.ts';

const COPY_BYTES = 1024 * 1024;

/** Copies bytes of the file to a place that reads as zeros, so that holes stay holes. */
export function copyBytes(file: HostFile, from: HostOffset, to: HostOffset, length: number): void {
  const end = from + length;
  const buffer = new Uint8Array(Math.min(length, COPY_BYTES));
  for (let at = file.seekData(from); at < end; at = file.seekData(hostOffset(at))) {
    const dataEnd = Math.min(end, file.seekHole(hostOffset(at)));
    // the end of the file counts as data
    if (dataEnd <= at) return;
    while (at < dataEnd) {
      const part = file.read(buffer, 0, Math.min(buffer.length, dataEnd - at), hostOffset(at));
      if (part === 0) return;
      file.write(buffer, 0, part, after(to, at - from));
      at += part;
    }
  }
}
