// A stream of bits that is read from its end, the highest bit first, as the blocks of LZFSE have them.

import { DamagedData } from '../damaged-data.ts';

export class BackwardBits {
  private readonly view: DataView;
  private readonly startBit: number;
  private bit: number;

  /**
   * @param start of the stream in the source @param end of it; the source goes on for four bytes at least
   * @param unused bits at the top of the last byte, 0 to 7, which are 0
   */
  constructor(source: Uint8Array, start: number, end: number, unused: number) {
    this.view = new DataView(source.buffer, source.byteOffset, source.length);
    this.startBit = start * 8;
    this.bit = end * 8 - unused;
    if (this.bit < this.startBit || (unused > 0 && source[end - 1]! >>> (8 - unused) !== 0))
      throw new DamagedData('has an LZFSE stream that ends in a wrong bit');
  }

  /** The next `count` bits, at most 25, as a number. */
  read(count: number): number {
    this.bit -= count;
    if (this.bit < this.startBit) throw new DamagedData('has an LZFSE stream that is too short');
    return (this.view.getUint32(this.bit >>> 3, true) >>> (this.bit & 7)) & ((1 << count) - 1);
  }
}
