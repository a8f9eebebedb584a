// Extents in memory, opened, read and written without a descriptor.

import { guestOffset, hostOffset } from '../../src/bytes/offsets.ts';
import type { CheckReport } from '../../src/format/check-report.ts';
import type { CheckedFormat, ReadableImage } from '../../src/format/image-format.ts';
import { cowd } from '../../src/format/vmdk/cowd/index.ts';
import type { Extent, ExtentKind, OpenExtentOptions, WritableExtent } from '../../src/format/vmdk/extent.ts';
import { sparse } from '../../src/format/vmdk/sparse/index.ts';
import type { HostFile } from '../../src/host/host-file.ts';
import { cowdBytes, type SparseRecipe, sparseBytes } from './vmdk-bytes.ts';

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

/** A kind of extent as a format, for tests that know formats. @param bytesOf a new extent of so many bytes of a disk */
export function formatOf(
  kind: ExtentKind<WritableExtent> & Pick<Required<ExtentKind>, 'check'>,
  bytesOf: (size: number) => Buffer,
  hasBacking: boolean,
): CheckedFormat {
  return {
    name: 'vmdk',
    title: kind.title,
    magics: [],
    can: { write: true, resize: true, backing: true, lazyRefcounts: false },
    createHelp: { options: [], backing: true, sizes: '' } as never,
    create: (file, { size }) => {
      const bytes = bytesOf(size);
      file.write(bytes, 0, bytes.length, hostOffset(0));
    },
    open: (file, options) =>
      kind.open(file, { ...options, backing: hasBacking ? options.openBacking({ name: '/base' }) : null }),
    attach: (file, { state }, options) => kind.attach(file, state, options),
    check: (file, options) => kind.check(file, { ...options, hasBacking }),
    inspect: (file) => {
      const { capacity, grainBytes, isUnclean } = kind.inspect(file);
      return { format: 'vmdk', virtualSize: capacity, clusterSize: grainBytes, dirty: isUnclean, specific: {} };
    },
  };
}

/** What of the extents that are written goes ways of its own, with small grains and tables. */
export const WRITTEN_EXTENTS: readonly {
  readonly name: string;
  readonly format: CheckedFormat;
  readonly withBacking: boolean;
}[] = [false, true].flatMap((withBacking) => {
  const over = withBacking ? ' over a parent' : '';
  const sectors = (size: number) => size / 512;
  const of = (name: string, recipe: Omit<SparseRecipe, 'capacity' | 'entries'>) => ({
    name: name + over,
    format: formatOf(sparse, (size) => sparseBytes({ ...recipe, entries: [], capacity: sectors(size) }), withBacking),
    withBacking,
  });
  return [
    of('a sparse extent', {}),
    of('a sparse extent with entries of zeros', { zeroGrains: true }),
    of('a sparse extent with one copy of its tables', { redundant: false }),
    of('a sparse extent without tables', { lazy: Array.from({ length: 64 }, (_, i) => i) }),
    {
      name: `a COWD extent${over}`,
      format: formatOf(cowd, (size) => cowdBytes({ entries: [], capacity: sectors(size) }), withBacking),
      withBacking,
    },
  ];
});
