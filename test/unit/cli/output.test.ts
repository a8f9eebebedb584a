// What commands print, against the words and numbers of qemu-img.

import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { formatSize } from '../../../src/bytes/format-size.ts';
import { printable, printableSentence, shellQuote } from '../../../src/bytes/printable.ts';
import { checkJson, checkText } from '../../../src/cli/commands/check.ts';
import { parseFormatOptions } from '../../../src/cli/commands/create.ts';
import { infoJson, infoLines } from '../../../src/cli/commands/info.ts';
import { snapshotJson, snapshotLines } from '../../../src/cli/commands/info-snapshots.ts';
import { mapDisk, mapLines } from '../../../src/cli/commands/map.ts';
import { parseResize } from '../../../src/cli/commands/resize.ts';
import { statusTable } from '../../../src/cli/commands/status.ts';
import { exactNumber, formatTable, jsonPieces } from '../../../src/cli/output.ts';
import { formatProgress } from '../../../src/cli/progress.ts';
import { layOut } from '../../../src/cli/text-layout.ts';
import { parseSize } from '../../../src/disk/index.ts';
import { emptyCheckReport } from '../../../src/format/check-report.ts';
import { cureForUsers, describeUsers } from '../../../src/mounts/users.ts';

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

describe('sizes', () => {
  it('are printed as qemu-img prints them', () => {
    const cases: [number, string][] = [
      [0, '0 B'],
      [999, '999 B'],
      [1000, '0.977 KiB'],
      [593920, '580 KiB'],
      [10485760, '10 MiB'],
      [1073741824 * 1.5, '1.5 GiB'],
      [2 ** 50, '1 PiB'],
    ];
    for (const [bytes, text] of cases) expect(formatSize(bytes)).toBe(text);
  });
  it('of resize are absolute or relative', () => {
    expect(parseResize('2M', 5)).toBe(2 ** 21);
    expect(parseResize('+1k', 512)).toBe(1536);
    expect(parseResize('-512', 1024)).toBe(512);
    expect(() => parseResize('-1k', 512)).toThrow(/cannot shrink by 1024/);
    expect(() => parseResize('+8P', 2 ** 52)).toThrow(/too large/);
    expect(() => parseResize('', 0)).toThrow(/not a size/);
    for (const text of ['+', '-', '+-1', '++1']) expect(() => parseResize(text, 0)).toThrow(/not a change of size/);
  });
  it.each([
    ['10GB', '10G'],
    ['10GiB', '10G'],
    ['1.5 gb', '1.5G'],
    ['1,5G', '1.5G'],
    ['-5k', '5k'],
    ['abc', '10G'],
    ['1e9', '10G'],
  ])('%s is no size, and %s is what one would look like', (text, like) => {
    expect(() => parseSize(text)).toThrow(`"${text}" is not a size; `);
    expect(() => parseSize(text)).toThrow(new RegExp(`, such as ${like}$`));
  });
  it('that are the value of an option are named with it', () => {
    expect(() => parseSize('x', 'cluster_size')).toThrow(/^cluster_size=x is not a size/);
    expect(() => parseSize('1.5', 'table_size')).toThrow(/^table_size=1.5 is not a whole number/);
    expect(() => parseSize('9P', 'cluster_size')).toThrow(/cluster_size=9P is too large/);
  });
  it('adding and taking away the same size changes nothing', () => {
    fc.assert(
      fc.property(
        fc.nat(),
        fc.nat(),
        (size, delta) => parseResize(`-${delta}`, parseResize(`+${delta}`, size)) === size,
      ),
    );
  });
});

describe('check', () => {
  const report = { ...emptyCheckReport('qed'), totalClusters: 160, allocatedClusters: 1 };
  it('prints what qemu-img prints for a clean image', () => {
    expect(checkText({ ...report, totalClusters: 200 })).toBe(
      'No errors were found on the image.\n1/200 = 0.50% allocated, 0.00% fragmented, 0.00% compressed clusters',
    );
  });
  it('counts what is left after a repair, and what was repaired', () => {
    const repaired = { ...report, corruptions: 3, corruptionsFixed: 2, leaks: 5, leaksFixed: 5 };
    expect(checkText(repaired)).toContain('    5 leaked clusters\n    2 corruptions');
    expect(checkText(repaired)).toContain('1 error was found on the image.');
    expect(checkJson('a', repaired, [])).toMatchObject({ corruptions: 1, 'corruptions-fixed': 2, 'leaks-fixed': 5 });
    expect(checkJson('a', repaired, [])['leaks']).toBeUndefined();
  });
});

describe('info', () => {
  const info = {
    filename: 'a',
    format: 'qed',
    virtualSize: 10485760,
    clusterSize: 65536,
    actualSize: 593920,
    dirty: true,
    backingFilename: 'b',
    fullBackingFilename: '/x/b',
    specific: {},
    snapshots: [],
  };
  it('prints the lines of qemu-img', () => {
    expect(infoLines('a.qed', info)).toEqual([
      'image: a.qed',
      'file format: qed',
      'virtual size: 10 MiB (10485760 bytes)',
      'disk size: 580 KiB',
      'cleanly shut down: no',
      'cluster_size: 65536',
      'backing file: b (actual path: /x/b)',
    ]);
  });
  it('has the keys of qemu-img', () => {
    expect(infoJson('a.qed', info)).toMatchObject({
      'virtual-size': 10485760,
      'actual-size': 593920,
      'backing-filename': 'b',
      'full-backing-filename': '/x/b',
      'dirty-flag': true,
    });
    expect(infoJson('a.qed', info)['encrypted']).toBeUndefined();
  });
  it('says that an image is encrypted, and how, further in', () => {
    const encrypted = { ...info, dirty: false, specific: { encrypt: { format: 'luks', slots: [{ active: true }] } } };
    expect(infoJson('a', encrypted)['encrypted']).toBe(true);
    const lines = infoLines('a', encrypted);
    expect(lines).toContain('encrypted: yes');
    expect(lines.slice(lines.indexOf('    encrypt:'))).toEqual([
      '    encrypt:',
      '        format: luks',
      '        slots:',
      '            [0]:',
      '                active: true',
    ]);
  });
});

describe('map', () => {
  it('joins neighbours that continue each other, and only those', () => {
    const extents = [
      { start: 0, length: 10, status: 'data', depth: 0, hostOffset: 100, path: 'a' },
      { start: 10, length: 10, status: 'data', depth: 0, hostOffset: 110, path: 'a' },
      { start: 20, length: 10, status: 'data', depth: 0, hostOffset: 500, path: 'a' },
      { start: 30, length: 10, status: 'zero', depth: 0, path: 'a' },
      { start: 40, length: 10, status: 'unallocated', depth: 1, path: 'b' },
    ] as const;
    const disk = { extents: () => extents };
    const entries = [...mapDisk(disk as unknown as Parameters<typeof mapDisk>[0])];
    expect(
      entries.map(({ start, length, present, zero, data, offset }) => [start, length, present, zero, data, offset]),
    ).toEqual([
      [0, 20, true, false, true, 100],
      [20, 10, true, false, true, 500],
      [30, 10, true, true, false, undefined],
      [40, 10, false, true, false, undefined],
    ]);
    expect([...mapLines(entries)][1]).toMatch(/^0 +0x14 +0x64 +a$/);
  });
});

describe('arguments', () => {
  it('format options are key=value, a doubled comma is a comma', () => {
    expect([...parseFormatOptions(['a=1,b=x,,y', 'c='])]).toEqual([
      ['a', '1'],
      ['b', 'x,y'],
      ['c', ''],
    ]);
    expect(() => parseFormatOptions(['cluster_size'])).toThrow(/key=value/);
  });
});

describe('names', () => {
  const evil = '/a\nb\x1b[2J\x7f\u0085\u2028\u202ec é';
  const shown = '/a\\012b\\033[2J\\177\\302\\205\\342\\200\\250\\342\\200\\256c é';
  it('keep what a terminal would act on in octal, as the mount table does', () => {
    expect(printable(evil)).toBe(shown);
    expect(printable('/it\'s "a" \\ name')).toBe('/it\'s "a" \\ name');
    expect(
      formatTable([
        ['A', 'B'],
        [evil, 'x'],
      ]).split('\n'),
    ).toHaveLength(2);
  });
  it('stay on one line of a sentence, but a stack keeps its own', () => {
    expect(printableSentence(`${evil} is busy`)).toBe(`${shown} is busy`);
    expect(printableSentence('Error: x\n    at f (a:1)\n    at g (a:2)')).toBe(
      'Error: x\n    at f (a:1)\n    at g (a:2)',
    );
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
  it('that a shell would not take from a screen are quoted so that it does', () => {
    expect(shellQuote("/a\nb\x1b'\\c")).toBe("$'/a\\012b\\033\\'\\\\c'");
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
  it('of a snapshot has the keys of qemu-img, exact', () => {
    const snapshot = {
      ...{ id: '1', name: 'x', vmStateSize: '9007199254740993', dateSeconds: 1, dateNanoseconds: 2 },
      ...{ vmClockSeconds: 18446744073, vmClockNanoseconds: 709551615, icount: '9007199254740995' },
    };
    const text = [...jsonPieces(snapshotJson(snapshot), '')].join('').replace(/\s/g, '');
    expect(text).toContain('"icount":9007199254740995,"vm-clock-nsec":709551615');
    expect(text).toContain('"vm-clock-sec":18446744073');
    expect(text).toContain('"vm-state-size":9007199254740993');
    expect(snapshotJson({ ...snapshot, icount: null })).not.toHaveProperty('icount');
    expect(snapshotLines([snapshot])[1]).toMatch(/ 5124095:34:33\.709 9007199254740995$/);
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
  it('users of a mount are named with a cure that can be typed', () => {
    const users = {
      loops: [{ device: '/dev/loop0', mountpoints: ["/mnt/it's", '/mnt/b'], autoclear: false }],
      processes: [{ pid: 7, name: 'sh' }],
    };
    expect(describeUsers(users)).toBe("/dev/loop0 (mounted at /mnt/it's, /mnt/b), process 7 (sh)");
    expect(cureForUsers(users)).toBe("umount /mnt/b; umount '/mnt/it'\\''s'; losetup -d /dev/loop0");
    expect(cureForUsers({ loops: [], processes: [] })).toBeNull();
    expect(shellQuote('/a b')).toBe("'/a b'");
  });
});
