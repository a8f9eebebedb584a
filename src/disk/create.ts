// Creating an image file. Whatever fails or interrupts it, no half-made file stays behind, and an existing file is never
// overwritten.

import { closeQuietly, closingAfter } from '../errors/close.ts';
import { ImgfuseError } from '../errors/index.ts';
import type { ImageFormat } from '../format/image-format.ts';
import { storeCopyOnRead } from '../host/copy-on-read-default.ts';
import { isUrl } from '../host/http/url.ts';
import { NewFile } from '../host/new-file.ts';
import { removeFile } from '../host/paths.ts';
import { PosixHostFile } from '../host/posix-file.ts';
import { locateFile } from './backing-policy.ts';
import {
  assertChainFits,
  assertExtentName,
  baseInDirectory,
  factsOfBase,
  locateBase,
  type OverlayBase,
} from './overlay-base.ts';
import { formatByName, formatNames } from './registry.ts';

export interface CreateDiskOptions {
  /** virtual size in bytes; absent: that of the backing file */
  readonly size?: number | undefined;
  /** format options, key to value as typed */
  readonly options: ReadonlyMap<string, string>;
  /** name of the backing file, stored as given; relative names are relative to the new image */
  readonly backing?: string | undefined;
  readonly backingFormat?: string | undefined;
  /** bytes of the password of an encrypted image; they are overwritten after use */
  readonly password?: (() => Uint8Array) | undefined;
  /** stored with the file: whether mounts copy on read if no option says otherwise */
  readonly copyOnRead?: boolean | undefined;
  /** called once for each warning */
  readonly log?: ((sentence: string) => void) | undefined;
}

/** @returns the virtual size of the new image */
export function createDisk(imagePath: string, format: string, options: CreateDiskOptions): { virtualSize: number } {
  const plug = creatableFormat(format, options.backing);
  const { backing, backingFormat } = options;
  if (backing !== undefined && backingFormat === undefined) {
    throw new ImgfuseError(
      'usage',
      `the format of the backing file ${backing} is not given; add -F FORMAT (${formatNames(() => true)})`,
    );
  }
  if (isUrl(imagePath)) {
    const cure = `a file of that name is called ./${imagePath}`;
    throw new ImgfuseError('usage', `${imagePath} is a URL, and an image is made as a file of this machine; ${cure}`);
  }
  const base =
    backing === undefined
      ? null
      : baseInDirectory(imagePath, { name: backing, format: formatByName(backingFormat!).name });
  const location = base === null ? null : locateBase(imagePath, base);
  const isNeeded = options.size === undefined;
  const parent = location === null ? null : factsOfBase(location, base!.format, isNeeded, options.log);
  const size = options.size ?? parent?.virtualSize;
  if (size === undefined) throw new ImgfuseError('usage', `give the size of ${imagePath}, such as 10G`);
  if (base !== null) assertChainIsFree(imagePath, location!, base);
  const image = NewFile.create(imagePath);
  const { file } = image;
  const extents: NewFile[] = [];
  // the image comes last: it never exists without its other files
  const created = (): NewFile[] => [...extents, image];
  const make = (): { virtualSize: number } => {
    plug.create(file, {
      size,
      options: options.options,
      password: options.password,
      log: options.log,
      createExtent: (name, role) => {
        assertExtentName(imagePath, name, role);
        // where openDisk looks for it; qemu-img takes its working directory
        const extent = NewFile.create(locateFile(imagePath, name));
        extents.push(extent);
        return extent.file;
      },
      ...(base === null ? {} : { backing: base }),
      ...(parent === null ? {} : { parent }),
    });
    if (options.copyOnRead !== undefined) storeCopyOnRead(file, options.copyOnRead);
    const { virtualSize } = plug.inspect(file);
    for (const each of created()) each.publish();
    return { virtualSize };
  };
  return closingAfter(
    () => created().map((each) => each.file),
    () => {
      try {
        return make();
      } catch (error) {
        for (const each of created()) closeQuietly([{ close: () => each.discard() }]);
        throw error;
      }
    },
  );
}

/** @throws ImgfuseError usage if images of the format cannot be made, or not with a backing file */
function creatableFormat(
  name: string,
  backing: string | undefined,
): ImageFormat & Required<Pick<ImageFormat, 'create'>> {
  const format = formatByName(name);
  const canMake = (each: ImageFormat): boolean =>
    each.create !== undefined && (backing === undefined || each.can.backing);
  const { create } = format;
  if (create !== undefined && canMake(format)) return { ...format, create };
  const what = create === undefined ? 'is not a format that images are made in' : 'images cannot have a backing file';
  throw new ImgfuseError('usage', `${name} ${what}; use -f with one of ${formatNames(canMake)}`);
}

/** A new image has no name yet, so an empty file takes its place while the chain is followed: a link may lead there. */
function assertChainIsFree(imagePath: string, location: string, base: OverlayBase): void {
  const place = PosixHostFile.create(imagePath, false);
  closingAfter(
    () => [{ close: () => removeFile(imagePath) }, place],
    () => assertChainFits(place, location, base),
  );
}
