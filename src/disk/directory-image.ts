// An image that is a directory: a file in it, which the plug of its format names, stands for it and is opened in its place. The
// directory may come from anybody, so that file has to lie in it and be a regular one.

import { dirname } from 'node:path';
import { ImgfuseError } from '../errors/index.ts';
import { endsOf, isSigned } from '../format/file-ends.ts';
import { isUrl } from '../host/http/url.ts';
import { fileKind, isRegularFile, realPath } from '../host/paths.ts';
import { openImageFile } from './image-file.ts';
import { formats } from './registry.ts';

/** Formats whose images may be directories, and the file that says so. */
const KINDS = formats.flatMap((format) =>
  format.directoryFile === undefined ? [] : [{ format, file: format.directoryFile }],
);

/**
 * The file to open for an image: of a directory the file that stands for it, else the name itself, whatever it leads to.
 * @throws ImgfuseError usage for a directory that is no image; permission
 */
export function imageFileOf(name: string): string {
  if (isUrl(name) || fileKind(name) !== 'directory') return name;
  const directory = name.replace(/(?<=.)\/+$/, '');
  let unlike = '';
  for (const { format, file } of KINDS) {
    const path = `${directory === '/' ? '' : directory}/${file}`;
    if (fileKind(path) === 'missing') continue;
    assertOwn(directory, path);
    const opened = openImageFile(path, true, 'image');
    try {
      if (isSigned(format, endsOf(opened), 'head')) return path;
      unlike ||= `its ${file} is not that of ${format.title}`;
    } finally {
      opened.close();
    }
  }
  const files = KINDS.map(({ format, file }) => `no ${file} of ${format.title}`).join(' and ');
  throw new ImgfuseError(
    'usage',
    `${name} is a directory and no disk image: ${unlike === '' ? `it has ${files}` : unlike}; name the image file in it`,
    {
      path: name,
    },
  );
}

function assertOwn(directory: string, path: string): void {
  const real = realPath(path);
  if (dirname(real) === realPath(directory) && isRegularFile(real)) return;
  const what = `${path} is no regular file of that directory, so ${directory} is not opened`;
  throw new ImgfuseError('permission', `${what}; put a regular file with its content in its place`, { path });
}
