// Checking an image without mounting it.

import { closingAfter } from '../errors/close.ts';
import { ImgfuseError } from '../errors/index.ts';
import type { CheckReport, RepairMode } from '../format/check-report.ts';
import type { LockMode } from '../host/image-locks.ts';
import { imageFileOf } from './directory-image.ts';
import { ImageFiles } from './image-files.ts';
import { sayUnequalParent } from './parent-size.ts';
import { formatOf } from './probe.ts';

export interface CheckDiskOptions {
  readonly format?: string | undefined;
  readonly repair: RepairMode;
  /** directories in or below which other files of the image may lie, beside the image's own directory */
  readonly allowBacking?: readonly string[] | undefined;
  /** default: take */
  readonly locks?: LockMode | undefined;
  /** called once for each finding or warning */
  readonly log: (sentence: string) => void;
  /** fraction of the work, 0 to 1 */
  readonly progress?: ((fraction: number) => void) | undefined;
}

/** Throws unsupported for a format without a check (exit code 63). Without repair the file is opened read-only. */
export function checkDisk(name: string, options: CheckDiskOptions): CheckReport & { readonly filename: string } {
  const readOnly = options.repair === 'none';
  const path = imageFileOf(name);
  const { allowBacking, locks } = options;
  const files = new ImageFiles({ allowBacking, locks });
  return closingAfter(
    () => files.opened,
    () => {
      const file = files.open(path, readOnly, 'user');
      const format = formatOf(file, options.format, options.log);
      const { repair, log, progress } = options;
      if (format.check === undefined) {
        const message = `${path} is ${format.title}, and that format has no check`;
        throw new ImgfuseError('unsupported', message, { path, operation: 'check' });
      }
      const image = { name: path, path: file.path };
      const openExtent = files.extentsOf(image, readOnly);
      const report = format.check(file, { repair, openExtent, log, ...(progress === undefined ? {} : { progress }) });
      if (format.refusesOtherSize !== undefined)
        sayUnequalParent(format, image, format.inspect(file), { allowed: allowBacking ?? [] }, log);
      return { ...report, filename: name };
    },
  );
}
