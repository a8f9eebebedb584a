// Creating an image file. Whatever fails, no half-made file stays behind, and an existing file is never overwritten.

import { closeQuietly, closingAfter } from '../errors/close.ts';
import { ImgfuseError } from '../errors/index.ts';
import { storeCopyOnRead } from '../host/copy-on-read-default.ts';
import { isUrl, parseUrl } from '../host/http/url.ts';
import { isRegularFile, removeFile } from '../host/paths.ts';
import { PosixHostFile } from '../host/posix-file.ts';
import { locateBacking, locateFile } from './backing-policy.ts';
import { openDisk } from './open.ts';
import { formatByName } from './registry.ts';

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
  /** stored with the file: mount with copy-on-read, or without it, where nothing else is said */
  readonly copyOnRead?: boolean | undefined;
}

/** @returns the virtual size of the new image */
export function createDisk(imagePath: string, format: string, options: CreateDiskOptions): { virtualSize: number } {
  const plug = formatByName(format);
  const { backing, backingFormat } = options;
  if (backing !== undefined && backingFormat === undefined) {
    throw new ImgfuseError(
      'usage',
      `the format of the backing file ${backing} is not given; add -F FORMAT (raw, qed, ...)`,
    );
  }
  if (backing !== undefined) assertOpensLater(imagePath, backing);
  const size = options.size ?? sizeOfBacking(imagePath, options);
  const file = PosixHostFile.create(imagePath, false);
  const dataFiles: PosixHostFile[] = [];
  const created = (): PosixHostFile[] => [file, ...dataFiles];
  const make = (): { virtualSize: number } => {
    plug.create(file, {
      size,
      options: options.options,
      password: options.password,
      createDataFile: (name) => {
        // where openDisk looks for it; qemu-img takes its working directory
        const dataFile = PosixHostFile.create(locateFile(imagePath, name), false);
        dataFiles.push(dataFile);
        return dataFile;
      },
      ...(backing === undefined ? {} : { backing: { name: backing, format: backingFormat! } }),
    });
    if (options.copyOnRead !== undefined) storeCopyOnRead(file, options.copyOnRead);
    return { virtualSize: plug.inspect(file).virtualSize };
  };
  return closingAfter(created, () => {
    try {
      return make();
    } catch (error) {
      for (const { path } of created()) closeQuietly([{ close: () => removeFile(path) }]);
      throw error;
    }
  });
}

/** What no later open would take is not stored; a file that does not exist yet may come. */
function assertOpensLater(imagePath: string, backing: string): void {
  const located = locateBacking(imagePath, backing);
  if (isUrl(located)) {
    parseUrl(located);
    return;
  }
  try {
    if (isRegularFile(located)) return;
  } catch (error) {
    if (error instanceof ImgfuseError && error.kind === 'missing') return;
    throw error;
  }
  const what = `the backing file ${located} is no regular file, and ${imagePath} could not be opened with it`;
  throw new ImgfuseError('usage', `${what}; copy it into an image, for example with qemu-img convert`);
}

/** The user named this backing file, so it may lie anywhere; it is opened to see that it is what was said. */
function sizeOfBacking(imagePath: string, { backing, backingFormat: format, password }: CreateDiskOptions): number {
  if (backing === undefined) throw new ImgfuseError('usage', `give the size of ${imagePath}, such as 10G`);
  const backingPath = locateBacking(imagePath, backing);
  const disk = openDisk(backingPath, { readOnly: true, format, password });
  return closingAfter(
    () => [disk],
    () => disk.size(),
  );
}
