// cloop images of version 2, byte by byte, with every field as a test wants it.

import { deflateSync } from 'node:zlib';

export interface CloopSpec {
  /** the disk; a last block is filled up with zeros */
  readonly content?: Uint8Array;
  readonly text?: string;
  readonly blockSize?: number;
  /** what the header says of the number of blocks */
  readonly blocks?: number;
  /** bytes between the table and the first block */
  readonly gap?: number;
  /** replaces the compressed bytes of single blocks */
  readonly stored?: Readonly<Record<number, Uint8Array>>;
  /** replaces entries of the table */
  readonly entries?: Readonly<Record<number, number | bigint>>;
}

const TEXT = '#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0 && mount -r -t iso9660 /dev/cloop $1\nexit $?\n';

/** The image, and what its disk reads as. */
export function cloopImage(spec: CloopSpec = {}): { readonly image: Buffer; readonly content: Buffer } {
  const { blockSize = 4096, gap = 0, entries = {}, stored = {} } = spec;
  const given = spec.content ?? MIXED_CONTENT;
  // a size that no image may have is only written to the header
  const step = blockSize > 0 ? Math.min(blockSize, 65_536) : 4096;
  const count = Math.ceil(given.length / step);
  const content = Buffer.concat([given], count * step);
  const blocks = Array.from(
    { length: count },
    (_, i) => stored[i] ?? deflateSync(content.subarray(i * step, (i + 1) * step)),
  );
  const header = Buffer.alloc(136 + (count + 1) * 8);
  header.write(spec.text ?? TEXT, 0, 128, 'latin1');
  header.writeUInt32BE(blockSize, 128);
  header.writeUInt32BE(spec.blocks ?? count, 132);
  let at = header.length + gap;
  for (let i = 0; i <= count; i++) {
    header.writeBigUInt64BE(BigInt(entries[i] ?? at), 136 + i * 8);
    at += blocks[i]?.length ?? 0;
  }
  return { image: Buffer.concat([header, Buffer.alloc(gap, 0xdd), ...blocks]), content };
}

/** Text, noise and zeros; the length is not a multiple of a block. */
export const MIXED_CONTENT: Uint8Array = Uint8Array.from({ length: 300_032 }, (_, i) => {
  const piece = i >> 13;
  if (piece % 5 === 1 || (piece > 18 && piece < 24)) return 0;
  return piece % 3 === 0 ? (Math.imul(i, 2654435761) >>> 19) & 255 : 97 + ((i >> 3) % 26);
});
