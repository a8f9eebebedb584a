// What the overlay of a mount holds, for status, for the log and for who unmounts it.

import { formatSize } from '../bytes/format-size.ts';
import { shellQuote } from '../bytes/printable.ts';
import type { MountRequest } from './mount-request.ts';

/** As JSON has it. */
export interface OverlayReport {
  /** null: a temporary file without a name */
  readonly filename: string | null;
  readonly temporary: boolean;
  /** the image that is not written */
  readonly base: string;
  /** bytes of the disk that the overlay has; absent: not known */
  readonly 'allocated-size'?: number;
  /** the changes can be written back into the base */
  readonly committable: boolean;
}

/** @returns undefined for a mount whose changes go to the image itself */
export function overlayReport(
  { image, overlay }: Pick<MountRequest, 'image' | 'overlay'>,
  bytes: number | null,
  isBaseWritable: boolean,
): OverlayReport | undefined {
  if (overlay === undefined) return undefined;
  const { path, isTemporary } = overlay;
  return {
    filename: isTemporary ? null : path,
    temporary: isTemporary,
    base: image,
    ...(bytes === null ? {} : { 'allocated-size': bytes }),
    committable: !isTemporary && isBaseWritable,
  };
}

/** The end of a mount, as a sentence. */
export function describeOverlayAtEnd({ base, committable, filename, 'allocated-size': bytes }: OverlayReport): string {
  if (filename === null) {
    const what = bytes === undefined ? 'the changes' : `${formatSize(bytes)} of changes`;
    return `${what} were thrown away, ${base} is as it was`;
  }
  const size = bytes === undefined ? '' : ` (${formatSize(bytes)})`;
  const commit = committable ? `; "imgfuse commit ${shellQuote(filename)}" writes them into ${base}` : '';
  return `changes are kept in ${filename}${size}${commit}`;
}

/** The file that the mount writes to, as sentences name it. */
export function changedFile({ image, overlay }: Pick<MountRequest, 'image' | 'overlay'>): string {
  if (overlay === undefined) return image;
  return overlay.isTemporary ? `the temporary overlay of ${image}` : overlay.path;
}
