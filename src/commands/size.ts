// Sizes as qemu-img prints them, and sizes relative to the present one.

import { MAX_VIRTUAL_SIZE } from '../bytes/offsets.ts';
import { parseSize } from '../disk/index.ts';
import { ImgfuseError } from '../errors/index.ts';

export { parseSize };

const UNITS = ['', 'Ki', 'Mi', 'Gi', 'Ti', 'Pi', 'Ei'];

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

/** Three significant digits and a binary unit: "10 MiB", "580 KiB", "0 B". */
export function formatSize(bytes: number): string {
  let value = bytes;
  let index = 0;
  while (value >= 1000 && index < UNITS.length - 1) {
    value /= 1024;
    index++;
  }
  return `${Number(value.toPrecision(3))} ${UNITS[index]}B`;
}
