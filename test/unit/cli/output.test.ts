// How the output of commands is put together: JSON, tables, lines for a terminal.

import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { infoJson, infoLines } from '../../../src/cli/commands/info.ts';
import { statusTable } from '../../../src/cli/commands/status.ts';
import { exactNumber, formatTable, jsonPieces } from '../../../src/cli/output.ts';
import { formatProgress } from '../../../src/cli/progress.ts';
import { layOut } from '../../../src/cli/text-layout.ts';

describe('JSON', () => {
  it('in pieces is that of JSON.stringify', () => {
    fc.assert(
      fc.property(fc.anything({ withNullPrototype: false }), (value) => {
        const plain: unknown = JSON.parse(JSON.stringify(value) ?? 'null');
        expect([...jsonPieces(plain, '')].join('')).toBe(JSON.stringify(plain, undefined, 4));
      }),
    );
  });
  it('leaves out members that are undefined, and has null for what no JSON can say', () => {
    const value = { a: undefined, b: Number.NaN, c: [undefined, Number.POSITIVE_INFINITY], d: {}, e: [] };
    expect([...jsonPieces(value, '')].join('')).toBe(JSON.stringify(value, undefined, 4));
  });
  it('makes one piece for a member, however many there are', () => {
    let longest = 0;
    const names = Array.from({ length: 5000 }, (_, index) => ({ name: `snapshot ${index}` }));
    for (const piece of jsonPieces({ snapshots: names }, '')) longest = Math.max(longest, piece.length);
    expect(longest).toBeLessThan(64);
  });
});

describe('names', () => {
  const evil = '/a\nb\x1b[2J\x7f\u0085\u2028\u202ec é';
  const shown = '/a\\012b\\033[2J\\177\\302\\205\\342\\200\\250\\342\\200\\256c é';
  it('stay on their line of a table', () => {
    expect(
      formatTable([
        ['A', 'B'],
        [evil, 'x'],
      ]).split('\n'),
    ).toHaveLength(2);
  });
  it('of files and of what an image says stay in their place', () => {
    const info = {
      filename: evil,
      format: 'qcow2',
      virtualSize: 1,
      clusterSize: 65536,
      actualSize: 1,
      dirty: false,
      backingFilename: evil,
      specific: { 'data file': evil },
      snapshots: [],
    };
    const lines = infoLines(evil, info);
    expect(lines[0]).toBe(`image: ${shown}`);
    expect(lines).toContain(`backing file: ${shown}`);
    expect(lines).toContain(`    data file: ${shown}`);
    expect(infoJson(evil, info)['backing-filename']).toBe(evil);
    expect(statusTable([{ mountpoint: evil, image: evil, state: 'dead' }]).split('\n')).toHaveLength(2);
  });
});

describe('JSON', () => {
  it('has integers beyond 2^53 as they are, and as numbers', () => {
    const value = {
      a: exactNumber('9007199254740991'),
      b: exactNumber('18446744073709551615'),
      c: undefined,
      d: ['7'],
    };
    expect([...jsonPieces(value, '')].join('').replace(/\s/g, '')).toBe(
      '{"a":9007199254740991,"b":18446744073709551615,"d":["7"]}',
    );
  });
});

describe('texts', () => {
  it('a table has columns as wide as their widest cell', () => {
    expect(
      formatTable([
        ['A', 'B'],
        ['long', 'x'],
      ]),
    ).toBe('A     B\nlong  x');
  });
  it('progress stays between 0 and 100 %', () => {
    expect(formatProgress('x', -1, 80)).toMatch(/\[\.{30}\] {3}0%$/);
    expect(formatProgress('x', 0.5, 80)).toMatch(/\[#{15}\.{15}\] {2}50%$/);
    expect(formatProgress('x', 2, 80)).toMatch(/\[#{30}\] 100%$/);
  });
  it('progress never reaches the last column of a terminal, and tells the percentage as long as there is room', () => {
    for (let columns = 1; columns <= 100; columns++) {
      const line = formatProgress('checking', 0.43, columns);
      expect(line.length).toBeLessThan(columns);
      if (columns > 4) expect(line).toMatch(/43%$/);
    }
    expect(formatProgress('checking', 0.5, 30)).toBe('checking [#######......]  50%');
    expect(formatProgress('checking', 0.5, 20)).toBe('checking  50%');
  });
  it('terms and their texts stand side by side where there is room, and below each other where there is not', () => {
    const rows = [
      ['ro', 'never written to by anybody'],
      ['a=, b=, c=, d=, e=, f=, g=, h=, i=', 'more'],
    ] as const;
    expect(layOut(rows, 80)).toBe(
      '  ro  never written to by anybody\n  a=, b=, c=, d=, e=, f=, g=, h=, i=\n      more',
    );
    for (const width of [20, 30, 45]) {
      for (const line of layOut(rows, width).split('\n')) expect(line.length).toBeLessThanOrEqual(width);
    }
  });
});
