// Extents in memory, opened, read and written without a descriptor.

import { guestOffset } from '../../src/bytes/offsets.ts';
import type { CheckReport } from '../../src/format/check-report.ts';
import type { ReadableImage } from '../../src/format/image-format.ts';
import type { Extent, ExtentKind, OpenExtentOptions } from '../../src/format/vmdk/extent.ts';
import type { HostFile } from '../../src/host/host-file.ts';

export type ExtentOptions = Partial<OpenExtentOptions>;

/** Opens `file` with everything a test does not care about filled in. */
export function openExtent<Opened extends Extent>(
  kind: ExtentKind<Opened>,
  file: HostFile,
  options: ExtentOptions = {},
): Opened {
  const defaults = { readOnly: false, backing: null, log: () => undefined, slots: 1, tableCacheBytes: 64 * 1024 };
  return kind.open(file, { ...defaults, ...options });
}

export function readAll(image: Pick<ReadableImage, 'read' | 'virtualSize'>): Buffer {
  const bytes = Buffer.alloc(image.virtualSize(), 0x55);
  image.read(bytes, 0, bytes.length, guestOffset(0));
  return bytes;
}

export function checkExtent(
  kind: Pick<Required<ExtentKind>, 'check'>,
  file: HostFile,
  repair: 'none' | 'leaks' | 'all' = 'none',
): CheckReport & { readonly said: string[] } {
  const said: string[] = [];
  const report = kind.check(file, { repair, hasBacking: false, log: (sentence) => said.push(sentence) });
  return { ...report, said };
}

/** toEqual() compares buffers of megabytes byte by byte, for seconds. */
export function isSame(one: Uint8Array, other: Uint8Array): boolean {
  return Buffer.compare(one, other) === 0;
}
