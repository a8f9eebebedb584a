// Sizes as arguments, relative to the present one or not.

import { MAX_VIRTUAL_SIZE } from '../bytes/offsets.ts';
import { parseSize } from '../disk/index.ts';
import { ImgfuseError } from '../errors/index.ts';

export { parseSize };

/** A size relative to the present one: "+1G" and "-1G" change it, "1G" sets it. */
export function parseResize(text: string, current: number): number {
  const sign = text[0];
  if (sign !== '+' && sign !== '-') return parseSize(text);
  if (!/^.\d/.test(text)) {
    throw new ImgfuseError('usage', `"${text}" is not a change of size; give a sign and a size, such as +10G`);
  }
  const delta = parseSize(text.slice(1));
  const size = sign === '+' ? current + delta : current - delta;
  if (size < 0) {
    throw new ImgfuseError(
      'usage',
      `the disk has ${current} bytes and cannot shrink by ${delta}; give a smaller number`,
    );
  }
  if (size > MAX_VIRTUAL_SIZE) {
    throw new ImgfuseError('limit', `the size ${size} is too large: imgfuse handles disks up to 8 PiB - 512 bytes`);
  }
  return size;
}
