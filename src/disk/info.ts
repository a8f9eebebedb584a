// Facts about an image file from its header alone.

import { closingAfter } from '../errors/close.ts';
import { ImgfuseError } from '../errors/index.ts';
import type { BackingReference, ParentFacts, SnapshotDetails } from '../format/image-format.ts';
import { type LockMode, mayHaveWriter } from '../host/image-locks.ts';
import { locateBacking } from './backing-policy.ts';
import { imageFileOf } from './directory-image.ts';
import { ImageFiles } from './image-files.ts';
import { searchParent } from './parent-search.ts';
import { sayUnequalParent } from './parent-size.ts';
import { formatOf, type RawOption } from './probe.ts';
import { lookUntilWhole } from './share/first-look.ts';

export interface DiskInfo {
  readonly filename: string;
  readonly format: string;
  readonly virtualSize: number;
  /** null if the format has no clusters */
  readonly clusterSize: number | null;
  /** bytes the host has allocated for the files that were looked at */
  readonly actualSize: number;
  /** the image was not closed clean */
  readonly dirty: boolean;
  /** as stored in the image */
  readonly backingFilename?: string;
  /** absolute path with its symbolic links, or URL */
  readonly fullBackingFilename?: string;
  readonly backingFormat?: string;
  readonly snapshots: readonly SnapshotDetails[];
  /** keys of qemu-img's format-specific data */
  readonly specific: Readonly<Record<string, unknown>>;
}

export interface InspectOptions {
  readonly format?: string | undefined;
  /** default: take */
  readonly locks?: LockMode | undefined;
  /** how the user of the command says raw; default: --format */
  readonly rawOption?: RawOption | undefined;
  /** called once for each warning, and for what a truncated image has lost */
  readonly log?: ((sentence: string) => void) | undefined;
}

/** Reads the header of one image; its backing file is not opened. */
export function inspectDisk(imagePath: string, options: InspectOptions = {}): DiskInfo {
  return inspectParent(imagePath, options).info;
}

/** The same for an image that another one is made on, with what the other one stores of it. */
export function inspectParent(
  name: string,
  options: InspectOptions,
): { readonly info: DiskInfo; readonly parent: ParentFacts } {
  const { locks, log } = options;
  return lookUntilWhole(mayHaveWriter(locks), log, (each) => inspectOnce(name, { ...options, log: each }));
}

function inspectOnce(name: string, options: InspectOptions): ReturnType<typeof inspectParent> {
  const { locks } = options;
  const imagePath = imageFileOf(name);
  const files = new ImageFiles({ locks });
  return closingAfter(
    () => files.opened,
    () => {
      const file = files.open(imagePath, true, 'user');
      const format = formatOf(file, options.format, options.log, options.rawOption);
      const openExtent = files.extentsOf({ name: imagePath, path: file.path }, true);
      const details = format.inspect(file, options.log, openExtent);
      if (options.log !== undefined)
        sayUnequalParent(format, { name: imagePath, path: file.path }, details, { allowed: [] }, options.log);
      const { backing, identity, sectorSize, virtualSize } = details;
      const info: DiskInfo = {
        filename: name,
        format: details.format,
        virtualSize,
        clusterSize: details.clusterSize,
        actualSize: files.opened.reduce((bytes, each) => bytes + each.allocatedBytes(), 0),
        dirty: details.dirty,
        ...(backing === undefined
          ? {}
          : {
              backingFilename: backing.stored ?? backing.name,
              fullBackingFilename: placeOf(imagePath, file.path, backing),
              ...(backing.format === undefined ? {} : { backingFormat: backing.format }),
            }),
        snapshots: details.snapshots ?? [],
        specific: details.specific,
      };
      const parent = {
        ...{
          path: imagePath,
          format: format.name,
          virtualSize,
          modifiedMs: file.modifiedMs(),
        },
        ...(identity === undefined ? {} : { identity }),
        ...(sectorSize === undefined ? {} : { sectorSize }),
      };
      return { info, parent };
    },
  );
}

/** A parent that is looked for, and not found or not told from a copy, has no place but its name. */
function placeOf(imagePath: string, path: string, backing: BackingReference): string {
  try {
    const found = searchParent({ name: imagePath, path }, backing, { allowed: [] });
    return found?.path ?? locateBacking(imagePath, backing.name);
  } catch (error) {
    const kinds = backing.search === undefined ? ['missing'] : ['missing', 'usage'];
    if (error instanceof ImgfuseError && kinds.includes(error.kind)) return backing.name;
    throw error;
  }
}
