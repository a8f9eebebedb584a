// The long proofs in pieces, each with a number and a seed of its own: what one process runs, and what several others do side by side.

import type { Verdict } from './power-cut.ts';
import { CUT_KINDS, cutWorkload } from './power-cut-workloads.ts';
import { type ImagePiece, type ModelFigures, runImages, writeBackingFiles } from './random-operations.ts';
import { makeTemporaryDirectory, removeTemporaryDirectory } from './temporary.ts';

/** Of a kind of image, by its index. */
export type Piece =
  | (ImagePiece & { readonly proof: 'images'; readonly number: number })
  | {
      readonly proof: 'cuts';
      readonly kind: number;
      readonly seed: number;
      /** of the workload */
      readonly number: number;
      /** states of it that are judged, about */
      readonly most: number;
    };

export type ResultOf<One extends Piece> = One extends { readonly proof: 'images' } ? ModelFigures : Verdict;

let folder: string | null = null;

/** Runs a piece in this process. @throws what is wrong with an image of random operations */
export function runPiece<One extends Piece>(piece: One): ResultOf<One> {
  if (piece.proof === 'cuts') {
    return cutWorkload(CUT_KINDS[piece.kind]!, piece.seed, piece.number, piece.most) as ResultOf<One>;
  }
  return runImages(piece, piece.number, backingFolder()) as ResultOf<One>;
}

function backingFolder(): string {
  if (folder === null) {
    const made = makeTemporaryDirectory();
    process.on('exit', () => removeTemporaryDirectory(made));
    writeBackingFiles(made);
    folder = made;
  }
  return folder;
}
