// Contents that encoders treat in different ways, for tests of decoders.

const words = Array.from({ length: 300 }, (_, i) => `${(i * 7919) % 10007}-${'abcdefghij'.slice(0, i % 10)}`);

/** Each gives `length` bytes. */
export const CONTENTS: Readonly<Record<string, (length: number, random: () => number) => Uint8Array>> = {
  text: (length, random) => {
    let text = '';
    while (text.length < length) text += `${words[Math.floor(random() ** 2 * words.length)]} `;
    return Buffer.from(text).subarray(0, length);
  },
  noise: (length, random) => Uint8Array.from({ length }, () => random() * 256),
  zeros: (length) => new Uint8Array(length),
  'few symbols': (length, random) => Uint8Array.from({ length }, () => 65 + random() ** 4 * 20),
  'all symbols': (length, random) => Uint8Array.from({ length }, () => random() ** 3 * 256),
  'two symbols': (length, random) => Uint8Array.from({ length }, () => (random() < 0.1 ? 1 : 0)),
  'long matches': (length, random) => {
    const part = Uint8Array.from({ length: Math.ceil(length / 3) }, () => random() * 256);
    return Buffer.concat([part, part, part]).subarray(0, length);
  },
  'short periods': (length, random) => {
    const bytes = new Uint8Array(length);
    for (let at = 0; at < length; ) {
      const period = 1 + Math.floor(random() * 40);
      const end = Math.min(length, at + Math.floor(random() * 3000));
      for (let i = 0; at < end; i++, at++) bytes[at] = i < period ? random() * 256 : bytes[at - period]!;
    }
    return bytes;
  },
  mixed: (length, random) => {
    const bytes = new Uint8Array(length);
    for (let at = 0; at < length; ) {
      const kinds = ['text', 'noise', 'zeros', 'few symbols', 'short periods'];
      const part = CONTENTS[kinds[Math.floor(random() * kinds.length)]!]!(1 + Math.floor(random() * 9000), random);
      bytes.set(part.subarray(0, length - at), at);
      at += part.length;
    }
    return bytes;
  },
};
