// Which backing files may be opened. Their names come from the image, so from whoever made it: a name may point at
// /etc/passwd, at a pipe, at the image itself, or be a URL. Only regular files in the image's own directory (or in one the
// user allowed) are opened, read-only, and only in a format that nobody has to guess.

import * as path from 'node:path';
import { ImgfuseError } from '../errors/index.ts';
import { realPath } from '../host/paths.ts';

/** Images in a chain at most. */
export const MAX_CHAIN_DEPTH = 32;
/** Longest backing file name in bytes, from the largest of the formats. */
const MAX_NAME_BYTES = 4095;

export interface BackingPolicy {
  /** directories, absolute, whose files may back any image of the chain */
  readonly allowed: readonly string[];
}

/**
 * The absolute path of the backing file that `imagePath` names `name`.
 * @throws ImgfuseError permission, missing, usage
 */
export function resolveBacking(imagePath: string, name: string, policy: BackingPolicy): string {
  if (name.includes('\0') || Buffer.byteLength(name) > MAX_NAME_BYTES) {
    throw refusal(imagePath, `its backing file name is no file name`);
  }
  if (/^[a-z][a-z0-9+.-]*:/i.test(name)) {
    throw refusal(imagePath, `its backing file '${name}' is no plain file, and only plain files are opened`);
  }
  const directory = path.dirname(realPath(imagePath));
  const wanted = path.resolve(directory, name);
  let real: string;
  try {
    real = realPath(wanted);
  } catch (error) {
    throw new ImgfuseError(
      'missing',
      `the backing file ${wanted} of ${imagePath} does not exist; put it back, or mount without it after qemu-img rebase`,
      { path: wanted },
      error,
    );
  }
  const allowed = [directory, ...policy.allowed.map((entry) => realPath(entry))];
  if (allowed.some((entry) => isInside(real, entry))) return real;
  throw refusal(
    imagePath,
    `its backing file ${real} lies outside the image's own directory; add --allow-backing ${path.dirname(real)}`,
  );
}

function isInside(file: string, directory: string): boolean {
  const relative = path.relative(directory, file);
  return relative !== '' && relative !== '..' && !relative.startsWith('../') && !path.isAbsolute(relative);
}

function refusal(imagePath: string, why: string): ImgfuseError {
  return new ImgfuseError('permission', `${imagePath} is not opened: ${why}`, { path: imagePath });
}
