// An encoder of LZFSE and LZVN, written from the description of the format, which shares no line with the decoder. It takes
// the first match that it finds.

/** L literals, then M bytes from D bytes back. Without a match D is one that a reader may check. */
export interface Step {
  readonly literals: number;
  readonly match: number;
  readonly back: number;
}

/** Number of bits beside the symbol, for literals and matches (20 symbols each) and distances (64). */
const EXTRA = {
  literals: [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 3, 5, 8],
  match: [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 5, 8, 11],
  back: Array.from({ length: 64 }, (_, i) => Math.floor(i / 4)),
};
const STATES = { literals: 64, match: 64, back: 256, bytes: 1024 };
const MOST = {
  lzfse: { literals: 315, match: 2359, back: 262_139 },
  lzvn: { literals: 271, match: 271, back: 65_535 },
};
const STEPS_PER_BLOCK = 9000;
const BYTES_PER_BLOCK = 39_000;

/** Splits `content` into steps; the last ones may have no match. */
export function stepsOf(content: Uint8Array, kind: 'lzfse' | 'lzvn'): Step[] {
  const most = MOST[kind];
  const steps: Step[] = [];
  const places = new Map<number, number>();
  let literals = 0;
  const flush = (): void => {
    for (; literals > 0; literals -= Math.min(literals, most.literals))
      steps.push({ literals: Math.min(literals, most.literals), match: 0, back: 1 });
  };
  for (let at = 0; at < content.length; ) {
    const key = content[at]! + content[at + 1]! * 256 + content[at + 2]! * 65_536 + content[at + 3]! * 2 ** 24;
    const from = places.get(key);
    places.set(key, at);
    const back = from === undefined ? 0 : at - from;
    let match = 0;
    if (back > 0 && back <= most.back)
      while (match < most.match && at + match < content.length && content[at + match] === content[at + match - back])
        match++;
    if (match < 4) {
      literals++;
      at++;
      continue;
    }
    const rest = literals % (most.literals + 1);
    literals -= rest;
    flush();
    steps.push({ literals: rest, match, back });
    at += match;
  }
  flush();
  return steps;
}

class BitWriter {
  private readonly bits: number[] = [];

  /** The lowest bit first. */
  write(value: number, count: number): void {
    for (let i = 0; i < count; i++) this.bits.push(Math.floor(value / 2 ** i) % 2);
  }

  get unused(): number {
    return (8 - (this.bits.length % 8)) % 8;
  }

  bytes(): Buffer {
    const bytes = Buffer.alloc(Math.ceil(this.bits.length / 8));
    this.bits.forEach((bit, i) => {
      bytes[i >> 3]! |= bit << (i & 7);
    });
    return bytes;
  }
}

/** Frequencies that add up to the number of states; each symbol that occurs has one. */
function frequenciesOf(symbols: readonly number[], count: number, states: number): number[] {
  const frequencies = new Array<number>(count).fill(0);
  for (const symbol of symbols) frequencies[symbol]!++;
  if (symbols.length === 0) frequencies[0] = 1;
  const total = Math.max(1, symbols.length);
  const scaled = frequencies.map((n) => (n === 0 ? 0 : Math.max(1, Math.floor((n * states) / total))));
  for (let sum = scaled.reduce((a, b) => a + b); sum !== states; ) {
    const largest = scaled.indexOf(Math.max(...scaled));
    const step = sum < states ? states - sum : -Math.min(sum - states, scaled[largest]! - 1);
    scaled[largest]! += step;
    sum += step;
  }
  return scaled;
}

/** What an encoder needs of a state that stands for a symbol: which next states it reaches, and with how many bits. */
interface State {
  readonly state: number;
  readonly next: number;
  readonly bits: number;
}

/** The states of each symbol. The first ones of a symbol need one bit more than the others. */
function statesOf(frequencies: readonly number[], states: number): State[][] {
  let first = 0;
  return frequencies.map((frequency) => {
    if (frequency === 0) return [];
    const bits = Math.floor(Math.log2(states)) - Math.floor(Math.log2(frequency));
    const many = states / 2 ** (bits - 1) - frequency;
    const own = Array.from({ length: frequency }, (_, i) =>
      i < many
        ? { state: first + i, next: (frequency + i) * 2 ** bits - states, bits }
        : { state: first + i, next: (i - many) * 2 ** (bits - 1), bits: bits - 1 },
    );
    first += frequency;
    return own;
  });
}

/** Goes from a state to one before it that stands for `symbol`, and writes the way back. */
function stepBack(writer: BitWriter, table: readonly State[][], symbol: number, after: number): number {
  const before = table[symbol]!.find(({ next, bits }) => after >= next && after < next + 2 ** bits)!;
  writer.write(after - before.next, before.bits);
  return before.state;
}

/** The symbol of a number, and its extra bits. */
function symbolOf(value: number, extra: readonly number[]): { readonly symbol: number; readonly rest: number } {
  let base = 0;
  for (const [symbol, bits] of extra.entries()) {
    if (value < base + 2 ** bits) return { symbol, rest: value - base };
    base += 2 ** bits;
  }
  throw new Error(`${value} is too large`);
}

/** One compressed block with uncompressed ("bvx1") or compressed tables ("bvx2"). */
function block(steps: readonly Step[], literals: Uint8Array, version: 1 | 2): Buffer {
  const kinds = ['literals', 'match', 'back'] as const;
  // a distance of 0 repeats the last one
  const numbers = steps.map((step, i) => ({
    ...step,
    back: i > 0 && step.back === steps[i - 1]!.back ? 0 : step.back,
  }));
  const symbols = kinds.map((kind) => numbers.map((step) => symbolOf(step[kind], EXTRA[kind]).symbol));
  const frequencies = kinds.map((kind, i) => frequenciesOf(symbols[i]!, EXTRA[kind].length, STATES[kind]));
  const tables = kinds.map((kind, i) => statesOf(frequencies[i]!, STATES[kind]));
  const padded = [...literals, ...new Array<number>((4 - (literals.length % 4)) % 4).fill(literals.at(-1) ?? 0)];
  const byteFrequencies = frequenciesOf(padded, 256, STATES.bytes);
  const byteTable = statesOf(byteFrequencies, STATES.bytes);

  const literalWriter = new BitWriter();
  const byteStates = [0, 0, 0, 0];
  for (let i = padded.length - 1; i >= 0; i--)
    byteStates[i % 4] = stepBack(literalWriter, byteTable, padded[i]!, byteStates[i % 4]!);
  const stepWriter = new BitWriter();
  // decoders load words, and read beyond the start of what they use
  stepWriter.write(0, 64);
  const states = [0, 0, 0];
  for (const step of numbers.toReversed()) {
    for (const i of [2, 1, 0]) {
      const { symbol, rest } = symbolOf(step[kinds[i]!], EXTRA[kinds[i]!]);
      stepWriter.write(rest, EXTRA[kinds[i]!][symbol]!);
      states[i] = stepBack(stepWriter, tables[i]!, symbol, states[i]!);
    }
  }
  const [literalBytes, stepBytes] = [literalWriter.bytes(), stepWriter.bytes()];
  const rawBytes = steps.reduce((sum, { literals: l, match }) => sum + l + match, 0);
  const fields = {
    rawBytes,
    literals: padded.length,
    literalBytes: literalBytes.length,
    matches: steps.length,
    stepBytes: stepBytes.length,
    unused: [literalWriter.unused, stepWriter.unused] as const,
    byteStates,
    states,
    frequencies: [...frequencies.flat(), ...byteFrequencies],
  };
  return Buffer.concat([version === 1 ? headerV1(fields) : headerV2(fields), literalBytes, stepBytes]);
}

interface Fields {
  readonly rawBytes: number;
  readonly literals: number;
  readonly literalBytes: number;
  readonly matches: number;
  readonly stepBytes: number;
  readonly unused: readonly [number, number];
  readonly byteStates: readonly number[];
  readonly states: readonly number[];
  readonly frequencies: readonly number[];
}

function headerV1(fields: Fields): Buffer {
  const writer = new BitWriter();
  const { rawBytes, literals, matches, literalBytes, stepBytes, unused } = fields;
  for (const value of [
    rawBytes,
    literalBytes + stepBytes,
    literals,
    matches,
    literalBytes,
    stepBytes,
    2 ** 32 - unused[0],
  ])
    writer.write(value, 32);
  for (const state of fields.byteStates) writer.write(state, 16);
  writer.write(2 ** 32 - unused[1], 32);
  for (const state of fields.states) writer.write(state, 16);
  for (const frequency of fields.frequencies) writer.write(frequency, 16);
  writer.write(0, 16);
  return Buffer.concat([Buffer.from('bvx1'), writer.bytes()]);
}

function headerV2(fields: Fields): Buffer {
  const tables = new BitWriter();
  for (const frequency of fields.frequencies) writeFrequency(tables, frequency);
  const table = tables.bytes();
  const writer = new BitWriter();
  writer.write(fields.rawBytes, 32);
  for (const value of [fields.literals, fields.literalBytes, fields.matches]) writer.write(value, 20);
  writer.write(7 - fields.unused[0], 4);
  for (const state of fields.byteStates) writer.write(state, 10);
  writer.write(fields.stepBytes, 20);
  writer.write(7 - fields.unused[1], 4);
  writer.write(32 + table.length, 32);
  for (const state of fields.states) writer.write(state, 10);
  writer.write(0, 2);
  return Buffer.concat([Buffer.from('bvx2'), writer.bytes(), table]);
}

function writeFrequency(writer: BitWriter, frequency: number): void {
  if (frequency < 2) writer.write(frequency * 2, 2);
  else if (frequency < 4) writer.write(1 + (frequency - 2) * 4, 3);
  else if (frequency < 8) writer.write(3 + (frequency - 4) * 8, 5);
  else if (frequency < 24) writer.write(7 + (frequency - 8) * 16, 8);
  else writer.write(15 + (frequency - 24) * 16, 14);
}

const END = Buffer.from('bvx$');

/** @returns a stream of compressed blocks */
export function compressLzfse(content: Uint8Array, version: 1 | 2 = 2): Buffer {
  const blocks: Buffer[] = [];
  let steps: Step[] = [];
  let [start, at, literals]: [number, number, number[]] = [0, 0, []];
  for (const step of [...stepsOf(content, 'lzfse'), null]) {
    if (step === null || steps.length === STEPS_PER_BLOCK || literals.length + step.literals > BYTES_PER_BLOCK) {
      if (at > start) blocks.push(block(steps, Uint8Array.from(literals), version));
      [start, steps, literals] = [at, [], []];
    }
    if (step === null) break;
    for (let i = 0; i < step.literals; i++) literals.push(content[at + i]!);
    at += step.literals + step.match;
    steps.push(step);
  }
  return Buffer.concat([...blocks, END]);
}

/** @returns a stream of one LZVN block */
export function compressLzvn(content: Uint8Array): Buffer {
  const parts: number[] = [];
  let [at, last] = [0, 0];
  for (const { literals, match, back } of stepsOf(content, 'lzvn')) {
    const bytes = content.subarray(at, at + literals);
    at += literals + match;
    // up to three literals go into the instruction of the match
    const ahead = match > 0 ? literals % 4 : 0;
    const alone = literals - ahead;
    if (alone >= 16) parts.push(0xe0, alone - 16);
    else if (alone > 0) parts.push(0xe0 + alone);
    parts.push(...bytes.subarray(0, alone));
    if (match === 0) continue;
    let left = match;
    if (back !== last || ahead > 0) {
      const isMedium = back >= 2048 && back < 16_384 && back !== last;
      // other instructions have taken the codes of longer ones
      const own = Math.min(left, isMedium ? 34 : 10 - 2 * ahead);
      const code = ahead * 64 + (own - 3) * 8;
      if (back === last) parts.push(code + 6);
      else if (back < 1536) parts.push(code + (back >> 8), back & 255);
      else if (!isMedium) parts.push(code + 7, back & 255, back >> 8);
      else parts.push(0xa0 + ahead * 8 + ((own - 3) >> 2), ((back & 63) << 2) | ((own - 3) & 3), back >> 6);
      parts.push(...bytes.subarray(alone));
      left -= own;
    }
    if (left >= 16) parts.push(0xf0, left - 16);
    else if (left > 0) parts.push(0xf0 + left);
    last = back;
  }
  parts.push(6, 0, 0, 0, 0, 0, 0, 0);
  return Buffer.concat([lzvnHeader(content.length, parts.length), Buffer.from(parts), END]);
}

export function lzvnHeader(rawBytes: number, payload: number): Buffer {
  const header = Buffer.from('bvxn\0\0\0\0\0\0\0\0');
  header.writeUInt32LE(rawBytes, 4);
  header.writeUInt32LE(payload, 8);
  return header;
}
