// Decompresses a cluster of zstd frames: with node:zlib if it can (Node 22.15 and later), else with the decoder of this
// folder. Invariant: neither produces more than one cluster of output.

import zlib from 'node:zlib';
import { DamagedData } from '../damaged-data.ts';
import { type Frame, FrameDecoder, findFrame } from './frame.ts';

/** QEMU writes one frame per cluster, but also reads several. */
const MAX_FRAMES = 16;

/** node:zlib allocates the window, unlike the decoder of this folder; RFC 8878 asks decoders to support 8 MiB. */
const MAX_NODE_WINDOW_LOG = 23;

/** Decodes `frame` of `source` into at most `limit` bytes. @throws DamagedData, or the error of node:zlib */
export type Decoder = (source: Uint8Array, frame: Frame, limit: number) => Uint8Array;

type ZstdDecompressSync = (
  source: Uint8Array,
  options: { chunkSize: number; maxOutputLength: number; params: Record<number, number> },
) => Uint8Array;
/** Node 20 and its types have neither. Asked at the first cluster, because node:zlib takes time to load. */
function nodeZstd(): { zstdDecompressSync?: ZstdDecompressSync; constants: { ZSTD_d_windowLogMax?: number } } {
  return zlib as unknown as ReturnType<typeof nodeZstd>;
}

function decodeWithNode(source: Uint8Array, frame: Frame, limit: number): Uint8Array {
  if (frame.window > 2 ** MAX_NODE_WINDOW_LOG) return decodeHere(source, frame, limit);
  const { zstdDecompressSync, constants } = nodeZstd();
  // a chunk larger than the output saves a second chunk
  const chunkSize = limit + 64;
  return zstdDecompressSync!(source.subarray(frame.start, frame.end), {
    chunkSize,
    maxOutputLength: limit,
    params: { [constants.ZSTD_d_windowLogMax!]: MAX_NODE_WINDOW_LOG },
  });
}

let frameDecoder: FrameDecoder | undefined;

/** The decoder of this folder, on any Node. */
export function decodeHere(source: Uint8Array, frame: Frame, limit: number): Uint8Array {
  frameDecoder ??= new FrameDecoder();
  return frameDecoder.decode(source, frame, limit);
}

/** The decoder of this Node. */
export const nativeDecoder: Decoder = (source, frame, limit) =>
  (nodeZstd().zstdDecompressSync === undefined ? decodeHere : decodeWithNode)(source, frame, limit);

/**
 * Decodes the zstd frames at the start of `source` until they fill the cluster, and ignores the rest of `source`.
 * @throws DamagedData, or the error of the decoder
 */
export function decompressZstd(source: Uint8Array, clusterSize: number, decode: Decoder): Uint8Array {
  const parts: Uint8Array[] = [];
  let length = 0;
  let at = 0;
  for (let frames = 0; length < clusterSize; frames++) {
    if (frames === MAX_FRAMES) throw new DamagedData(`is split into more than ${MAX_FRAMES} zstd frames`);
    if (frames > 0 && at === source.length) break;
    const frame = findFrame(source, at);
    if (frame.hasData) {
      const part = decode(source, frame, clusterSize - length);
      length += part.length;
      parts.push(part);
    }
    at = frame.end;
  }
  return parts.length === 1 ? parts[0]! : Buffer.concat(parts, length);
}
