// Sizes as qemu-img reads them: "10G", "512k", "1.5T"; plain numbers are bytes.

import { MAX_VIRTUAL_SIZE } from '../bytes/offsets.ts';
import { ImgfuseError } from '../errors/index.ts';

const SUFFIXES = 'bkmgtpe';

/**
 * @param text digits, an optional fraction, an optional suffix b, k, M, G, T, P or E (powers of 1024, any case)
 * @param option the name of the option that has it as its value
 * @returns bytes
 * @throws ImgfuseError usage, limit
 */
export function parseSize(text: string, option?: string): number {
  const shown = option === undefined ? `"${text}"` : `${option}=${text}`;
  const match = /^(\d+)(\.\d+)?([bkmgtpe])?$/i.exec(text);
  if (match === null) {
    throw new ImgfuseError(
      'usage',
      `${shown} is not a size; give bytes, or a number with k, M, G, T, P or E (powers of 1024), such as ${nearestSize(text)}`,
    );
  }
  const exponent = match[3] === undefined ? 0 : SUFFIXES.indexOf(match[3].toLowerCase());
  const unit = 1024 ** exponent;
  const bytes = Number(match[1]) * unit + Math.round(Number(`0${match[2] ?? ''}`) * unit);
  if (match[2] !== undefined && exponent === 0) {
    throw new ImgfuseError('usage', `${shown} is not a whole number of bytes; a fraction needs k, M, G, T, P or E`);
  }
  if (!(bytes <= MAX_VIRTUAL_SIZE)) {
    throw new ImgfuseError(
      'limit',
      `the size ${option === undefined ? text : shown} is too large: imgfuse handles disks up to 8 PiB - 512 bytes`,
    );
  }
  return bytes;
}

/** 10GB, 10 GiB and 10G are the same to most people, but two of them are no size. */
function nearestSize(text: string): string {
  const match = /^[+-]?(\d+(?:[.,]\d+)?) ?([kmgtpe])i?b?$/i.exec(text.trim());
  if (match === null) return '10G';
  return `${match[1]!.replace(',', '.')}${match[2] === 'k' ? 'k' : match[2]!.toUpperCase()}`;
}
