// What another thread needs to use an open host file, as structured-clonable values.

import type { ThreadName } from './thread-life.ts';

/** How the pieces of one file lie in their directory; see piece-files.ts. */
export interface PieceLayout {
  readonly pieceBytes: number;
  /** of all pieces together, in bytes */
  readonly length: number;
}

export type SharedFile =
  | { readonly kind: 'descriptor'; readonly path: string; readonly descriptor: number; readonly readOnly: boolean }
  | { readonly kind: 'http'; readonly path: string; readonly state: BlockCacheState }
  | { readonly kind: 'pieces'; readonly path: string; readonly descriptor: number; readonly layout: PieceLayout }
  /** only objects of this thread can use it (files of tests) */
  | { readonly kind: 'private'; readonly path: string };

/** The cached blocks of a remote file; http/block-cache.ts says what the buffers hold. */
export interface BlockCacheState {
  /** of the file, in bytes */
  readonly length: number;
  readonly blockBytes: number;
  /** in blocks */
  readonly capacity: number;
  readonly readAheadBlocks: number;
  /** a reader that has heard nothing for so long gives up */
  readonly silenceMs: number;
  /** of HttpLimits */
  readonly answerMs: number;
  /** the network thread */
  readonly loader: ThreadName;
  readonly words: SharedArrayBuffer;
  readonly numbers: SharedArrayBuffer;
  readonly data: SharedArrayBuffer;
  readonly errors: SharedArrayBuffer;
}
