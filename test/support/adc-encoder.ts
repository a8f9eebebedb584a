// An encoder of Apple Data Compression, written from the description of the format: greedy, and with every kind of code.

/** @returns a stream that decompresses to `content` */
export function compressAdc(content: Uint8Array): Buffer {
  const parts: number[] = [];
  const places = new Map<number, number>();
  let literals = 0;
  const flush = (end: number): void => {
    for (let at = end - literals; at < end; at += 128) {
      const count = Math.min(128, end - at);
      parts.push(0x80 | (count - 1), ...content.subarray(at, at + count));
    }
    literals = 0;
  };
  for (let at = 0; at < content.length; ) {
    const key = content[at]! | (content[at + 1]! << 8) | (content[at + 2]! << 16);
    const from = at + 2 < content.length ? places.get(key) : undefined;
    places.set(key, at);
    const back = from === undefined ? Number.POSITIVE_INFINITY : at - from - 1;
    let length = 0;
    while (
      back <= 0xffff &&
      length < 67 &&
      at + length < content.length &&
      content[at + length] === content[at - back - 1 + length]
    )
      length++;
    const isShort = back < 0x400 && length <= 18;
    if (length < (isShort ? 3 : 4)) {
      literals++;
      at++;
      continue;
    }
    flush(at);
    if (isShort) parts.push(((length - 3) << 2) | (back >> 8), back & 0xff);
    else parts.push(0x40 | (length - 4), back >> 8, back & 0xff);
    at += length;
  }
  flush(content.length);
  return Buffer.from(parts);
}
