// What every decoder of a known length keeps: what encoders write comes back, and damage is told.

import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { DamagedData } from '../../src/codec/damaged-data.ts';
import { CONTENTS } from './compressible.ts';
import { seededRandom } from './random.ts';
import { hasCommand, requireOrSkip } from './requirements.ts';

const SEED = Number(process.env['SEED'] ?? 1);

export interface DecoderVariant {
  readonly decode: (source: Uint8Array, length: number) => Uint8Array;
  /** the program that the encoders need, and its Debian package; absent: they are the tests' own */
  readonly program?: string;
  /** by a name; the first one is the one that is damaged */
  readonly encoders: Readonly<Record<string, (content: Uint8Array) => Uint8Array>>;
  /** a stream never gives other bytes than it was made of */
  readonly hasChecksum: boolean;
  /** a sound start of a stream, after which any bytes follow in one test */
  readonly head: readonly number[];
  /** bytes of the largest content */
  readonly largest: number;
}

/** The message of the DamagedData that `action` throws. */
export function damageOf(action: () => unknown): string {
  try {
    action();
  } catch (error) {
    if (error instanceof DamagedData) return error.message;
    throw error;
  }
  throw new Error('it was decoded');
}

export function describeDecoder(name: string, variant: DecoderVariant): void {
  const { decode, encoders, hasChecksum, program } = variant;
  const first = Object.values(encoders)[0]!;
  const need = (context: Parameters<typeof requireOrSkip>[0]): void => {
    if (program !== undefined) requireOrSkip(context, hasCommand(program), program);
  };

  describe(name, () => {
    test.for(
      Object.keys(encoders).flatMap((encoder) => Object.keys(CONTENTS).map((kind) => [encoder, kind] as const)),
    )('%s: %s comes back', ([encoder, kind], context) => {
      need(context);
      for (const size of [1, 17, 512, 4096, 65_536, ...(kind === 'mixed' ? [variant.largest] : [])]) {
        const content = CONTENTS[kind]!(size, seededRandom(SEED + size));
        const source = encoders[encoder]!(content);
        expect(Buffer.compare(decode(source, size), content), `${size} bytes, seed ${SEED}`).toBe(0);
        // the file goes on
        const more = Buffer.concat([source, Buffer.alloc(99, 0xa5)]);
        expect(Buffer.compare(decode(more, size), content), `${size} bytes and more, seed ${SEED}`).toBe(0);
      }
    });

    test('a stream that gives more or less is refused', (context) => {
      need(context);
      for (const kind of Object.keys(CONTENTS)) {
        const source = first(CONTENTS[kind]!(5000, seededRandom(SEED)));
        expect(damageOf(() => decode(source, 4999))).toMatch(/more|impossible|beyond/);
        expect(damageOf(() => decode(source, 5001))).toMatch(/instead of 5001/);
        expect(damageOf(() => decode(source, 0))).toMatch(/more/);
      }
    });

    test('a stream that ends early, at any byte, is refused', (context) => {
      need(context);
      const source = first(CONTENTS['text']!(3000, seededRandom(SEED)));
      for (let kept = 0; kept < source.length; kept++) damageOf(() => decode(source.subarray(0, kept), 3000));
    });

    test('a stream with bytes changed is read or refused, and nothing else', (context) => {
      need(context);
      const random = seededRandom(SEED + 1);
      let refused = 0;
      const kinds = ['text', 'few symbols', 'all symbols', 'short periods', 'mixed'];
      const streams = kinds.flatMap((kind) =>
        Object.values(encoders).map((encode) => {
          const content = CONTENTS[kind]!(3000, random);
          return { content, source: encode(content) };
        }),
      );
      for (let round = 0; round < 2000; round++) {
        const { content, source } = streams[round % streams.length]!;
        const damaged = Uint8Array.from(source);
        for (let changes = Math.floor(random() * 3); changes >= 0; changes--) {
          const reach = random() < 0.6 ? Math.min(100, damaged.length) : damaged.length;
          damaged[Math.floor(random() * reach)] = random() * 256;
        }
        try {
          const output = decode(damaged, content.length);
          expect(output.length).toBe(content.length);
          if (hasChecksum) expect(Buffer.compare(output, content), `round ${round} of seed ${SEED}`).toBe(0);
        } catch (error) {
          expect(error).toBeInstanceOf(DamagedData);
          refused++;
        }
      }
      expect(refused).toBeGreaterThan(hasChecksum ? 1500 : 500);
    });

    test('any bytes are read or refused', () => {
      fc.assert(
        fc.property(fc.uint8Array({ maxLength: 400 }), (bytes) => {
          for (const source of [bytes, Uint8Array.from([...variant.head, ...bytes])]) {
            try {
              expect(decode(source, 4096)).toHaveLength(4096);
            } catch (error) {
              expect(error).toBeInstanceOf(DamagedData);
            }
          }
        }),
        { seed: SEED, numRuns: 2000 },
      );
    });
  });
}
