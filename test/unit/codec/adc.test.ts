// Apple Data Compression: what the encoder of the tests writes comes back, and damage is told.

import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { decompressAdc } from '../../../src/codec/adc.ts';
import { DamagedData } from '../../../src/codec/damaged-data.ts';
import { compressAdc } from '../../support/adc-encoder.ts';
import { CONTENTS } from '../../support/compressible.ts';
import { seededRandom } from '../../support/random.ts';

const SEED = Number(process.env['SEED'] ?? 1);

function damageOf(source: Iterable<number>, length: number): string {
  try {
    decompressAdc(Uint8Array.from(source), length);
  } catch (error) {
    if (error instanceof DamagedData) return error.message;
    throw error;
  }
  throw new Error('it was decoded');
}

test('codes made by hand are read', () => {
  // two literals, 3 bytes from 2 back, 4 bytes from 5 back, one literal, 19 bytes from 1 back
  const source = [0x81, 1, 2, 0x00, 1, 0x40, 0, 4, 0x80, 9, 0x4f, 0, 0];
  const output = [1, 2, 1, 2, 1, 1, 2, 1, 2, 9, ...new Array<number>(19).fill(9)];
  expect([...decompressAdc(Uint8Array.from(source), output.length)]).toEqual(output);
});

test.each(Object.keys(CONTENTS))('what an encoder writes of %s comes back', (kind) => {
  for (const size of [512, 4096, 300_032]) {
    const content = CONTENTS[kind]!(size, seededRandom(SEED));
    expect(Buffer.compare(decompressAdc(compressAdc(content), size), content)).toBe(0);
  }
});

describe('damage is told:', () => {
  test.each([
    [[], 1, 'decompresses to 0 bytes instead of 1'],
    [[0x80, 1], 2, 'decompresses to 1 bytes instead of 2'],
    [[0x81, 1, 2], 1, 'decompresses to more than 1 bytes'],
    [[0x80, 1, 0x00, 0], 3, 'decompresses to more than 3 bytes'],
    [[0x81, 1], 2, 'ends after 0 of 2 bytes'],
    [[0x80, 1, 0x00], 4, 'ends after 1 of 4 bytes'],
    [[0x80, 1, 0x40, 0], 5, 'ends after 1 of 5 bytes'],
    [[0x80, 1, 0x00, 1], 4, 'has an ADC match before its start'],
    [[0x00, 0], 3, 'has an ADC match before its start'],
    [[0x80, 1, 0x40, 0, 1], 5, 'has an ADC match before its start'],
  ])('%j for %i bytes %s', (source, length, sentence) => {
    expect(damageOf(source, length)).toBe(sentence);
  });

  test('any bytes are read or refused', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 300 }), fc.nat({ max: 5000 }), (bytes, length) => {
        try {
          expect(decompressAdc(bytes, length)).toHaveLength(length);
        } catch (error) {
          expect(error).toBeInstanceOf(DamagedData);
        }
      }),
      { seed: SEED, numRuns: 3000 },
    );
  });
});
