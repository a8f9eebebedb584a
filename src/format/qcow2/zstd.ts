// zstd frames of compressed clusters (RFC 8878): where a frame ends, checked before a decoder sees a byte of it, and the
// decoder: node:zlib's from Node 22.15 on, fzstd's before. Both are kept to one cluster of output. fzstd does not check what
// it decodes: a damaged block of 20 bytes keeps it busy for minutes or for ever, so it runs under a time limit.
// Invariant: memory is bounded by the cluster plus MAX_WINDOW_BYTES, time by what a cluster takes or the limit.

import { Script } from 'node:vm';
import * as zlib from 'node:zlib';
import { Decompress } from 'fzstd';

/** RFC 8878 asks decoders to support 8 MiB; a frame of one cluster (at most 2 MiB) never needs more. */
const MAX_WINDOW_LOG = 23;
const MAX_WINDOW_BYTES = 2 ** MAX_WINDOW_LOG;
const MAX_BLOCK_BYTES = 128 * 1024;
/** QEMU reads a cluster that is split into several frames and writes one. */
const MAX_FRAMES = 16;

const FRAME_MAGIC = 0xfd2fb528;
const SKIPPABLE_MAGIC = 0x184d2a50;

/** fzstd takes 16 ms for 2 MiB; twice this is what a damaged cluster can cost. */
const TIME_LIMIT_MS = 900;

/** What is wrong with compressed data, in words that follow "the compressed cluster ... ". */
export class DamagedData extends Error {}

/** Bytes of one frame that starts at `start`. @returns its end, and whether it holds data (or is to be skipped) */
function findFrame(source: Uint8Array, start: number): { end: number; data: boolean } {
  const view = new DataView(source.buffer, source.byteOffset, source.byteLength);
  if (start + 8 > source.length) throw new DamagedData('ends before a zstd frame begins');
  const magic = view.getUint32(start, true);
  if ((magic & 0xfffffff0) >>> 0 === SKIPPABLE_MAGIC) {
    const end = start + 8 + view.getUint32(start + 4, true);
    if (end > source.length) throw new DamagedData('has a skippable zstd frame that ends beyond its sectors');
    return { end, data: false };
  }
  if (magic !== FRAME_MAGIC) throw new DamagedData('does not begin with a zstd frame');
  const descriptor = source[start + 4]!;
  if ((descriptor & 0x08) !== 0) throw new DamagedData('has a reserved bit set in its zstd frame header');
  const singleSegment = (descriptor & 0x20) !== 0;
  const dictionaryBytes = [0, 1, 2, 4][descriptor & 3]!;
  const sizeCode = descriptor >> 6;
  const sizeBytes = sizeCode === 0 ? (singleSegment ? 1 : 0) : 1 << sizeCode;
  const fields = start + 5 + (singleSegment ? 0 : 1);
  const blocks = fields + dictionaryBytes + sizeBytes;
  if (blocks > source.length) throw new DamagedData('ends inside a zstd frame header');
  for (let i = 0; i < dictionaryBytes; i++) {
    if (source[fields + i] !== 0) throw new DamagedData('asks for a zstd dictionary, which qcow2 does not have');
  }
  const window = singleSegment
    ? readContentSize(source, fields + dictionaryBytes, sizeBytes)
    : readWindow(source[start + 5]!);
  if (window > MAX_WINDOW_BYTES) throw new DamagedData(`asks for a zstd window of ${window} bytes`);
  return { end: skipBlocks(source, blocks, Math.min(window, MAX_BLOCK_BYTES), (descriptor & 4) !== 0), data: true };
}

function readWindow(descriptor: number): number {
  const base = 2 ** (10 + (descriptor >> 3));
  return base + (base / 8) * (descriptor & 7);
}

function readContentSize(source: Uint8Array, at: number, bytes: number): number {
  let size = 0;
  for (let i = bytes - 1; i >= 0; i--) size = size * 256 + source[at + i]!;
  return bytes === 2 ? size + 256 : size;
}

/** @returns the end of the frame whose blocks start at `at` */
function skipBlocks(source: Uint8Array, at: number, limit: number, checksum: boolean): number {
  for (let last = false; !last; ) {
    if (at + 3 > source.length) throw new DamagedData('ends inside a zstd frame');
    const header = source[at]! | (source[at + 1]! << 8) | (source[at + 2]! << 16);
    last = (header & 1) !== 0;
    const type = (header >> 1) & 3;
    const size = header >> 3;
    if (type === 3) throw new DamagedData('has a zstd block of the reserved type');
    if (size > limit) throw new DamagedData(`has a zstd block of ${size} bytes, more than the ${limit} of its window`);
    at += 3 + (type === 1 ? 1 : size);
  }
  const end = at + (checksum ? 4 : 0);
  if (end > source.length) throw new DamagedData('ends inside a zstd frame');
  return end;
}

/** Decodes one whole frame into at most `limit` bytes; throws whatever the decoder throws. */
export type FrameDecoder = (frame: Uint8Array, limit: number) => Uint8Array;

type ZstdDecompressSync = (
  source: Uint8Array,
  options: { chunkSize: number; maxOutputLength: number; params: Record<number, number> },
) => Uint8Array;
// neither is in Node 20 nor in its types
const { zstdDecompressSync } = zlib as unknown as { zstdDecompressSync?: ZstdDecompressSync };
const { ZSTD_d_windowLogMax } = zlib.constants as unknown as { ZSTD_d_windowLogMax?: number };

function decodeWithNode(frame: Uint8Array, limit: number): Uint8Array {
  // a chunk that is larger than the output saves a second one
  const chunkSize = limit + 64;
  return zstdDecompressSync!(frame, {
    chunkSize,
    maxOutputLength: limit,
    params: { [ZSTD_d_windowLogMax!]: MAX_WINDOW_LOG },
  });
}

// vm's timeout ends any code that a script calls; a script reaches a function through a global, and runInThisContext costs
// 45 us a call where a context of its own costs 180
const JOB = Symbol.for('imgfuse.zstd');
const globals = globalThis as unknown as Record<symbol, unknown>;
const limitedScript = new Script('globalThis[Symbol.for("imgfuse.zstd")]()');

export function decodeWithFzstd(frame: Uint8Array, limit: number): Uint8Array {
  const output = new Uint8Array(limit);
  let length = 0;
  globals[JOB] = () => {
    length = 0;
    new Decompress((part) => {
      if (length + part.length > limit) throw new DamagedData('decompresses to more than a cluster');
      output.set(part, length);
      length += part.length;
    }).push(frame, true);
  };
  try {
    runLimited(2);
  } finally {
    delete globals[JOB];
  }
  return output.subarray(0, length);
}

/** A process that was stopped (SIGSTOP, a busy host) may lose one attempt through no fault of the data. */
function runLimited(attempts: number): void {
  try {
    limitedScript.runInThisContext({ timeout: TIME_LIMIT_MS });
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ERR_SCRIPT_EXECUTION_TIMEOUT') throw error;
    if (attempts <= 1) throw new DamagedData(`does not decompress within ${TIME_LIMIT_MS} ms`);
    runLimited(attempts - 1);
  }
}

/** The decoder of this Node. */
export const nativeDecoder: FrameDecoder = zstdDecompressSync === undefined ? decodeWithFzstd : decodeWithNode;

/**
 * The cluster in the zstd frames at the start of `source`; what stands behind the frame that fills the cluster is ignored.
 * @throws DamagedData, or the error of the decoder
 */
export function decompressZstd(source: Uint8Array, clusterSize: number, decode: FrameDecoder): Uint8Array {
  const parts: Uint8Array[] = [];
  let length = 0;
  let at = 0;
  for (let frames = 0; length < clusterSize; frames++) {
    if (frames === MAX_FRAMES) throw new DamagedData(`is split into more than ${MAX_FRAMES} zstd frames`);
    if (frames > 0 && at === source.length) break;
    const { end, data } = findFrame(source, at);
    if (data) {
      const part = decode(source.subarray(at, end), clusterSize - length);
      length += part.length;
      parts.push(part);
    }
    at = end;
  }
  return parts.length === 1 ? parts[0]! : Buffer.concat(parts, length);
}
