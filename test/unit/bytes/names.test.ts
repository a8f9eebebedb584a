// Names of files: every sequence of bytes is text and back without loss.

import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { bytesOfName, escapedByte, hostPath, nameOfBytes, nulTerminated } from '../../../src/bytes/names.ts';

const latin1 = (text: string): Uint8Array => new Uint8Array(Buffer.from(text, 'latin1'));

describe('a name', () => {
  test('is the same bytes after a turn through text, whatever they are', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 40 }), (bytes) => {
        expect(bytesOfName(nameOfBytes(bytes))).toEqual(bytes);
      }),
    );
  });

  test('is the same bytes where they are nearly UTF-8', () => {
    const pieces = fc.constantFrom(
      'ä',
      '€',
      '😀',
      '\xc3',
      '\xe2\x82',
      '\xed\xa0\x80',
      '\xf0\x9f',
      '\xff',
      'a',
      '\xef\xbb\xbf',
    );
    fc.assert(
      fc.property(fc.array(pieces, { maxLength: 12 }), (parts) => {
        const bytes = new Uint8Array(
          Buffer.concat(
            parts.map((part) => (/^[\0-\xff]*$/.test(part) && part !== 'ä' ? latin1(part) : Buffer.from(part))),
          ),
        );
        expect(bytesOfName(nameOfBytes(bytes))).toEqual(bytes);
      }),
    );
  });

  test('has exactly the sequences that the strict decoder takes as UTF-8', () => {
    const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
    const isText = (bytes: Uint8Array): boolean => {
      try {
        return decoder.decode(bytes) !== '';
      } catch {
        return false;
      }
    };
    const edges = [
      0x00, 0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc0, 0xc2, 0xdf, 0xe0, 0xed, 0xef, 0xf0, 0xf4, 0xf5, 0xff,
    ];
    for (const first of edges) {
      for (const second of edges) {
        for (const third of [0x41, 0x80, 0xbf]) {
          for (const fourth of [0x41, 0x80, 0xbf, 0xff]) {
            // 0xff makes the whole invalid, so that the slow way is taken
            const bytes = Uint8Array.of(0xff, first, second, third, fourth);
            const name = nameOfBytes(bytes);
            expect(bytesOfName(name)).toEqual(bytes);
            expect(name.slice(1).isWellFormed()).toBe(isText(bytes.subarray(1)));
            if (isText(bytes.subarray(1))) expect(name.slice(1)).toBe(decoder.decode(bytes.subarray(1)));
          }
        }
      }
    }
  });

  test('of a megabyte that is not UTF-8 takes no time', () => {
    const bytes = new Uint8Array(1024 * 1024).fill(0xff);
    const start = process.cpuUsage().user;
    const name = nameOfBytes(bytes);
    expect((process.cpuUsage().user - start) / 1000).toBeLessThan(500);
    expect(name).toHaveLength(bytes.length);
    expect(Buffer.compare(bytesOfName(name), bytes)).toBe(0);
  });

  test('of UTF-8 is its text, a byte-order mark and a replacement character included', () => {
    for (const text of ['base.raw', 'Übung €😀', '\ufeffbase.raw', 'a\ufffdb']) {
      expect(nameOfBytes(new Uint8Array(Buffer.from(text)))).toBe(text);
      expect(Buffer.from(bytesOfName(text)).toString()).toBe(text);
    }
  });

  test('has a lone surrogate for each byte that is not UTF-8, and the text around it stays', () => {
    const name = nameOfBytes(latin1('caf\xe9-\xc3\xa4.raw'));
    expect(name).toBe('caf\udce9-ä.raw');
    expect(escapedByte('\udce9')).toBe(0xe9);
    expect(escapedByte('ä')).toBeNull();
    expect(escapedByte('\udc41')).toBeNull();
    expect(JSON.parse(JSON.stringify(name))).toBe(name);
  });

  test('goes to the host as text where that is its bytes, and as bytes where not', () => {
    expect(hostPath('/tmp/ä')).toBe('/tmp/ä');
    expect(hostPath('/tmp/\udce9')).toEqual(Buffer.from('/tmp/\xe9', 'latin1'));
    expect(nulTerminated('\udce9')).toEqual(Buffer.from('\xe9\0', 'latin1'));
  });
});
