// The formats, in the order in which they are probed. Raw is last, because every file is a raw image.

import { hostOffset } from '../bytes/offsets.ts';
import { ImgfuseError } from '../errors/index.ts';
import type { ImageFormat } from '../format/image-format.ts';
import { qcow2 } from '../format/qcow2/index.ts';
import { qed } from '../format/qed/index.ts';
import { raw } from '../format/raw/index.ts';
import type { HostFile } from '../host/host-file.ts';

export const formats: readonly ImageFormat[] = [qed, qcow2, raw];

const PROBE_BYTES = 1024;

/** Throws usage with the list of names. */
export function formatByName(name: string): ImageFormat {
  const format = formats.find((candidate) => candidate.name === name);
  if (format !== undefined) return format;
  throw new ImgfuseError(
    'usage',
    `unknown format '${name}'; known are ${formats.map((known) => known.name).join(', ')}`,
  );
}

/** The format of a file by its first bytes; raw when nothing else fits. */
export function probeFormat(file: HostFile): ImageFormat {
  const head = new Uint8Array(PROBE_BYTES);
  const got = file.read(head, 0, PROBE_BYTES, hostOffset(0));
  const size = file.size();
  return formats.find((format) => format.probe(head.subarray(0, got), size)) ?? raw;
}
