// The last few decompressed pieces of an image that one thread has read, for small reads in order: a cluster, a block, a run.
// Invariant: they take at most the given bytes, unless a single piece is larger, which is then the only one.

export class KeptPieces {
  private readonly maxBytes: number;
  private readonly pieces = new Map<number, Uint8Array>();
  private bytes = 0;

  constructor(maxBytes: number) {
    this.maxBytes = maxBytes;
  }

  /** The caller does not change the piece. */
  get(key: number): Uint8Array | undefined {
    return this.pieces.get(key);
  }

  /** Takes over `piece`; those that were put first make room. */
  put(key: number, piece: Uint8Array): void {
    this.remove(key);
    this.pieces.set(key, piece);
    this.bytes += piece.length;
    for (const oldest of this.pieces.keys()) {
      if (this.bytes <= this.maxBytes || oldest === key) return;
      this.remove(oldest);
    }
  }

  private remove(key: number): void {
    this.bytes -= this.pieces.get(key)?.length ?? 0;
    this.pieces.delete(key);
  }
}
