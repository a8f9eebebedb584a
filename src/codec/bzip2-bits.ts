// The bits of a bzip2 stream, the highest one of each byte first. A peek may look beyond the end of the stream, where zeros are;
// assertInside() tells that bits were used that are not there.

import { DamagedData } from './damaged-data.ts';

export class Bzip2Bits {
  private readonly source: Uint8Array;
  /** the next byte, and the bits before it that were not used */
  private at = 0;
  private buffer = 0;
  private available = 0;

  constructor(source: Uint8Array) {
    this.source = source;
  }

  /** @param count 1 to 24 */
  read(count: number): number {
    this.fill(count);
    this.available -= count;
    this.assertInside();
    return (this.buffer >>> this.available) & ((1 << count) - 1);
  }

  /** The next 20 bits, which stay. */
  peek20(): number {
    this.fill(20);
    return (this.buffer >>> (this.available - 20)) & 0xfffff;
  }

  /** @param count at most 20, after peek20() */
  skip(count: number): void {
    this.available -= count;
  }

  assertInside(): void {
    if (this.at - (this.available >> 3) > this.source.length) throw new DamagedData('ends inside a bzip2 stream');
  }

  private fill(count: number): void {
    while (this.available < count) {
      const byte = this.at < this.source.length ? this.source[this.at]! : 0;
      this.buffer = (this.buffer << 8) | byte;
      this.at++;
      this.available += 8;
    }
  }
}
