// A process that runs pieces of a long proof, one after the other, until its parent (piece-processes.ts) is done with it.

import { type Piece, runPiece } from './pieces.ts';

process.on('message', (piece: Piece) => {
  let answer: object;
  try {
    answer = { result: runPiece(piece) };
  } catch (error) {
    answer = { error: String((error as Error).stack) };
  }
  const { user, system } = process.cpuUsage();
  process.send!({ ...answer, cpuSeconds: (user + system) / 1e6 });
});
