// Whether an image is to be mounted with copy-on-read unless something else is said: an extended attribute of its file, because
// QED has no place for it in the image, and no program that rewrites a qcow2 header can lose it there.

import { ImgfuseError } from '../errors/index.ts';
import { getAttribute, setAttribute } from '../native/index.ts';
import type { HostFile } from './host-file.ts';

const COPY_ON_READ_ATTRIBUTE = 'user.imgfuse.copy_on_read';

/** No if the file system has no such attributes. */
export function isCopyOnReadStored({ descriptor }: HostFile): boolean {
  if (descriptor === null) return false;
  try {
    return new TextDecoder().decode(getAttribute(descriptor, COPY_ON_READ_ATTRIBUTE)) === 'on';
  } catch (error) {
    if (!(error instanceof ImgfuseError)) throw error;
    return false;
  }
}

/** Throws unsupported if the file system has no such attributes. */
export function storeCopyOnRead(file: HostFile, isOn: boolean): void {
  const { descriptor, path } = file;
  try {
    if (descriptor === null) throw new ImgfuseError('unsupported', 'it is no file of this machine');
    setAttribute(descriptor, COPY_ON_READ_ATTRIBUTE, new TextEncoder().encode(isOn ? 'on' : 'off'));
  } catch (error) {
    throw new ImgfuseError(
      'unsupported',
      `copy_on_read cannot be stored with ${path}, because its file system takes no extended attributes; ` +
        'leave it out here and mount with -o copy_on_read',
      { path },
      error,
    );
  }
}
