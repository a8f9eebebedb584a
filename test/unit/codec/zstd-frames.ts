// zstd frames made by hand, down to the bits of a compressed block, for tests of what no encoder writes.

export interface Block {
  readonly type: 'raw' | 'rle' | 'compressed' | 'reserved';
  readonly size: number;
  readonly bytes: readonly number[];
}

export const rle = (size: number, byte: number): Block => ({ type: 'rle', size, bytes: [byte] });
export const raw = (...bytes: number[]): Block => ({ type: 'raw', size: bytes.length, bytes });
/** A compressed block of a literals section and a sequences section. */
export const compressed = (...sections: readonly (readonly number[])[]): Block => {
  const bytes = sections.flat();
  return { type: 'compressed', size: bytes.length, bytes };
};

/** A zstd frame with a window descriptor (64 KiB unless given). */
export function zstdFrame(
  blocks: readonly Block[],
  { flags = 0, window = 6 << 3, fields = [] as number[] } = {},
): Uint8Array {
  const bytes = [0x28, 0xb5, 0x2f, 0xfd, flags];
  if ((flags & 0x20) === 0) bytes.push(window);
  bytes.push(...fields);
  blocks.forEach(({ type, size, bytes: content }, i) => {
    const last = i === blocks.length - 1 ? 1 : 0;
    const header = last | (['raw', 'rle', 'compressed', 'reserved'].indexOf(type) << 1) | (size << 3);
    bytes.push(header & 255, (header >> 8) & 255, header >> 16, ...content);
  });
  return Uint8Array.from(bytes);
}

/** A frame of something else, three bytes of it. */
export const SKIPPABLE = Uint8Array.from([0x53, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3]);

/** A number and the bits it takes. */
export type Bits = readonly [value: number, bits: number];

/** A stream that is read from its end: the fields in the order in which they are read, below the end mark. */
export function backwardStream(...fields: readonly Bits[]): number[] {
  const digits = `1${fields.map(([value, bits]) => (bits === 0 ? '' : value.toString(2).padStart(bits, '0'))).join('')}`;
  const padded = digits.padStart(Math.ceil(digits.length / 8) * 8, '0');
  return (padded.match(/.{8}/g) ?? []).map((byte) => Number.parseInt(byte, 2)).reverse();
}

/** Fields that are read from the first bit on, low bits first, as in the description of an FSE table. */
export function forwardFields(...fields: readonly Bits[]): number[] {
  const digits = fields
    .map(([value, bits]) => value.toString(2).padStart(bits, '0').split('').reverse().join(''))
    .join('');
  const padded = digits.padEnd(Math.ceil(digits.length / 8) * 8, '0');
  return (padded.match(/.{8}/g) ?? []).map((byte) => Number.parseInt(byte.split('').reverse().join(''), 2));
}

/** A literals section of at most 31 bytes as they are. */
export function rawLiterals(...bytes: number[]): number[] {
  return [bytes.length << 3, ...bytes];
}

/** A literals section of Huffman-coded literals; `format` 0 is one stream, 1 four. */
export function codedLiterals(
  count: number,
  content: readonly number[],
  format: 0 | 1 = 0,
  treeless = false,
): number[] {
  return forwardFields([treeless ? 3 : 2, 2], [format, 2], [count, 10], [content.length, 10]).concat(content);
}

/** Modes of literals lengths, offsets and match lengths. */
export const PREDEFINED = 0;
export const RLE = 1;
export const FSE = 2;
export const REPEAT = 3;

/** A sequences section of fewer than 128 sequences. */
export function sequences(
  count: number,
  [literalsMode, offsetMode, matchMode]: readonly [number, number, number],
  ...rest: readonly (readonly number[])[]
): number[] {
  return [count, (literalsMode << 6) | (offsetMode << 4) | (matchMode << 2), ...rest.flat()];
}

export const NO_SEQUENCES = [0];
