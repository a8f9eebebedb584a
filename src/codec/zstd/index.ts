// The data of a compressed cluster of type zstd: frames that node:zlib decodes where it can (Node 22.15 and later), and the
// decoder of this folder elsewhere. Both are kept to one cluster of output.

import * as zlib from 'node:zlib';
import { DamagedData } from '../damaged-data.ts';
import { type Frame, FrameDecoder, findFrame } from './frame.ts';

/** QEMU reads a cluster that is split into several frames and writes one. */
const MAX_FRAMES = 16;

/** node:zlib takes memory for a window, where the decoder here does not; RFC 8878 asks decoders to support 8 MiB. */
const MAX_NODE_WINDOW_LOG = 23;

/** Decodes a frame that was found in `source` into at most `limit` bytes; throws DamagedData, or what its library throws. */
export type Decoder = (source: Uint8Array, frame: Frame, limit: number) => Uint8Array;

type ZstdDecompressSync = (
  source: Uint8Array,
  options: { chunkSize: number; maxOutputLength: number; params: Record<number, number> },
) => Uint8Array;
// neither is in Node 20 nor in its types
const { zstdDecompressSync } = zlib as unknown as { zstdDecompressSync?: ZstdDecompressSync };
const { ZSTD_d_windowLogMax } = zlib.constants as unknown as { ZSTD_d_windowLogMax?: number };

function decodeWithNode(source: Uint8Array, frame: Frame, limit: number): Uint8Array {
  if (frame.window > 2 ** MAX_NODE_WINDOW_LOG) return decodeHere(source, frame, limit);
  // a chunk that is larger than the output saves a second one
  const chunkSize = limit + 64;
  return zstdDecompressSync!(source.subarray(frame.start, frame.end), {
    chunkSize,
    maxOutputLength: limit,
    params: { [ZSTD_d_windowLogMax!]: MAX_NODE_WINDOW_LOG },
  });
}

let frameDecoder: FrameDecoder | undefined;

/** The decoder of this folder, on any Node. */
export function decodeHere(source: Uint8Array, frame: Frame, limit: number): Uint8Array {
  frameDecoder ??= new FrameDecoder();
  return frameDecoder.decode(source, frame, limit);
}

/** The decoder of this Node. */
export const nativeDecoder: Decoder = zstdDecompressSync === undefined ? decodeHere : decodeWithNode;

/**
 * The cluster in the zstd frames at the start of `source`; what stands behind the frame that fills the cluster is ignored.
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
