// The descriptor: what is read of every spelling that is in use, what is refused, and changes that keep everything else.

import { describe, expect, test } from 'vitest';
import { newIdentity, withIdentity, withParent, withSectors } from '../../../../src/format/vmdk/descriptor/edit.ts';
import { type Descriptor, parseDescriptor, textOf } from '../../../../src/format/vmdk/descriptor/parse.ts';
import { extentDetails } from '../../../../src/format/vmdk/details.ts';
import { parentReference } from '../../../../src/format/vmdk/parent.ts';
import { type DescriptorText, descriptorText } from '../../../support/vmdk-text.ts';

const FLAT = 'RW 2048 FLAT "disk-flat.vmdk" 0';
const UUIDS = {
  image: '6d1f0ab2-3c11-4a44-9d5e-0123456789ab',
  modification: '7e2f0ab2-3c11-4a44-9d5e-0123456789ab',
  parent: '8f3f0ab2-3c11-4a44-9d5e-0123456789ab',
};

function parse(parts: Partial<DescriptorText> = {}): Descriptor {
  return parseDescriptor(descriptorText({ extents: [FLAT], ...parts }), 'disk.vmdk');
}

describe('a descriptor is read', () => {
  test('with every kind of extent in its order, and counts are bytes', () => {
    const { extents } = parse({
      extents: [
        'RW 63 FLAT "a b-flat.vmdk" 128',
        'RDONLY 1 SPARSE "s001.vmdk"',
        'NOACCESS 2 ZERO',
        'RW 3 VMFS "v-flat.vmdk"',
        'rw 4 vmfssparse "delta.vmdk"',
        'RW 5 SESPARSE "se.vmdk"  ',
      ],
    });
    expect(extents.map(({ access, type, name, length, offset }) => [access, type, name, length, offset])).toEqual([
      ['RW', 'FLAT', 'a b-flat.vmdk', 63 * 512, 128 * 512],
      ['RDONLY', 'SPARSE', 's001.vmdk', 512, 0],
      ['NOACCESS', 'ZERO', null, 1024, 0],
      ['RW', 'VMFS', 'v-flat.vmdk', 3 * 512, 0],
      ['RW', 'VMFSSPARSE', 'delta.vmdk', 2048, 0],
      ['RW', 'SESPARSE', 'se.vmdk', 2560, 0],
    ]);
  });

  test.each(['\n', '\r\n', ' \n', '\t \r\n'])('whose lines end with %j', (newline) => {
    expect(parse({ newline })).toEqual(parse());
  });

  test('up to the first NUL, without comments, whatever the capitals, and with a short CID', () => {
    const text = descriptorText({ extents: [FLAT] });
    expect(parseDescriptor(textOf(Buffer.from(`${text}\0\0garbage RW x`)), '')).toEqual(parse());
    const shouting = text.replace('CID=1a2b3c4d', 'cid = 1A2B').replace('createType', 'CREATETYPE');
    expect(parseDescriptor(`#CID=5\n${shouting}`, '').cid).toBe('00001a2b');
  });

  test('with names of any bytes', () => {
    const text = textOf(Buffer.concat([Buffer.from('CID=1\nRW 1 FLAT "d\xe4.vmdk" 0\n', 'latin1')]));
    expect(parseDescriptor(text, '').extents[0]!.name).toBe('d\udce4.vmdk');
    const utf8 = textOf(Buffer.from('CID=1\nRW 1 FLAT "dä.vmdk" 0\n'));
    expect(parseDescriptor(utf8, '').extents[0]!.name).toBe('dä.vmdk');
  });

  test('embedded, with an extent of any name', () => {
    const text = 'CID=1\nRW 1 SPARSE "a"b.vmdk"\n';
    expect(parseDescriptor(text, '', true).extents[0]).toMatchObject({ type: 'SPARSE', length: 512 });
    expect(() => parseDescriptor(text, '')).toThrow(/no extent that is opened here/);
  });

  test.each([
    ['windows-1252', 'B\xfcro \x96 1', 'Büro – 1'],
    ['Shift_JIS', '\x83\x5c', 'ソ'],
    ['GBK', '\xb4\xc5\xc5\xcc', '磁盘'],
    ['windows-1252', Buffer.from('Büro').toString('latin1'), 'Büro'],
    ['UTF-8', 'B\xfcro', 'B\udcfcro'],
    ['of another world', 'B\xfcro', 'B\udcfcro'],
    ['Shift_JIS', '\x83', '\udc83'],
  ])('with names in the encoding %s', (encoding, bytes, name) => {
    const text = `version=1\nRW 1 FLAT "${bytes}.vmdk" 0\nencoding="${encoding}"\nCID=1\nparentFileNameHint="${bytes}"\n`;
    const descriptor = parseDescriptor(text, '');
    expect([descriptor.extents[0]!.name, descriptor.parentHint]).toEqual([`${name}.vmdk`, name]);
  });
});

describe('a descriptor is refused', () => {
  test.each([
    ['no extent', { extents: [] }, /names no extent/],
    ['no CID', { cid: '' }, /its cid is ''/],
    ['a CID of nine digits', { cid: '123456789' }, /1 to 8 hexadecimal digits/],
    ['a parentCID that is no number', { parentCid: 'none' }, /1 to 8 hexadecimal digits/],
    ['two CIDs', { lines: ['CID=2'] }, /says cid twice, 1a2b3c4d and 2/],
    ['an extent without a file', { extents: ['RW 1 FLAT'] }, /names no file/],
    ['an extent without sectors', { extents: ['RW 0 FLAT "x" 0'] }, /has no sectors/],
    ['a count that is no number', { extents: ['RW -1 FLAT "x" 0'] }, /no extent that is opened here/],
    ['a count beyond all disks', { extents: ['RW 9999999999999999 FLAT "x" 0'] }, /beyond the sizes/],
    ['a place beyond all files', { extents: ['RW 1 FLAT "x" 9999999999999999'] }, /beyond the sizes/],
    ['a sum beyond all disks', { extents: Array(4).fill('RW 9000000000000 ZERO') }, /more than can be opened/],
    ['an offset in a sparse file', { extents: ['RW 1 SPARSE "x" 5'] }, /has tables/],
    [
      'a device of Windows',
      { extents: ['RW 63 FLAT "\\\\.\\PhysicalDrive0" partitionUUID x'] },
      /no extent that is opened/,
    ],
    ['a raw device', { extents: ['RW 63 VMFSRDM "x-rdm.vmdk"'] }, /on a device or in a store/],
    ['vSAN', { extents: ['RW 63 VSANSPARSE "x.vmdk"'] }, /on a device or in a store/],
    ['too many extents', { extents: Array(5000).fill('RW 1 ZERO') }, /more than 4096 extents/],
    ['encryption', { lines: ['encryption.keySafe = "vmware:key/list"'] }, /encrypted by VMware/],
    ['a native snapshot', { lines: ['isNativeSnapshot="yes"'] }, /storage of the host/],
  ] as const)('with %s', (_, parts, sentence) => {
    expect(() => parse(parts as Partial<DescriptorText>)).toThrow(sentence);
  });

  test('if it is junk of 1 MiB, in no time', () => {
    const started = performance.now();
    for (const line of [`a=${' '.repeat(2 ** 20)}x`, `RW 1 FLAT${' '.repeat(2 ** 20)}x`]) {
      expect(() => parseDescriptor(line, '')).toThrow();
    }
    for (const unit of ['RW ', '"', '=', ' ', 'a="', 'x\n', 'RW 1 FLAT ']) {
      expect(() => parseDescriptor(unit.repeat(2 ** 20 / unit.length), '')).toThrow();
    }
    expect(performance.now() - started).toBeLessThan(10_000);
  });
});

test.each([
  ['disk.vmdk', 'disk-flat.vmdk'],
  ['../sub/disk.vmdk', '../sub/disk-flat.vmdk'],
  ['/disk.vmdk', '/disk-flat.vmdk'],
])('an extent of %s is called %s, as by qemu-img info', (path, name) => {
  expect(extentDetails(path, parse().extents[0]!, null, false).filename).toBe(name);
});

describe('a parent is named', () => {
  test('by its CID, with the hint in both spellings', () => {
    const descriptor = parse({ parentCid: 'ABCD', lines: ['parentFileNameHint="C:\\vm\\base.vmdk"'] });
    expect(parentReference(descriptor, '')).toMatchObject({
      name: 'C:/vm/base.vmdk',
      stored: 'C:\\vm\\base.vmdk',
      otherNames: ['C:\\vm\\base.vmdk', 'base.vmdk'],
      format: 'vmdk',
      identity: { word: 'CID', values: ['0000abcd'] },
    });
    expect(() => parentReference(parse({ parentCid: '5' }), 'child.vmdk')).toThrow(/no parentFileNameHint/);
  });

  test('by a UUID in images of VirtualBox, unless that is null', () => {
    const ddb = [`ddb.uuid.parent="${UUIDS.parent}"`, `ddb.uuid.parentmodification="${UUIDS.modification}"`];
    const reference = parentReference(parse({ ddb }), '')!;
    expect(reference.identity).toMatchObject({ word: 'ddb.uuid.modification', values: [UUIDS.modification] });
    expect(reference.search!.matches(`12345678 ${UUIDS.parent} ${UUIDS.image}`)).toBe(true);
    expect(reference.search!.matches(`12345678 ${UUIDS.image} ${UUIDS.parent}`)).toBe(false);
    expect(parentReference(parse({ ddb: ['ddb.uuid.parent="00000000-0000-0000-0000-000000000000"'] }), '')).toBeNull();
  });
});

describe('a change', () => {
  const ddb = [
    'ddb.geometry.heads = "16"',
    'ddb.geometry.sectors = "63"',
    'ddb.geometry.cylinders = "2"',
    `ddb.longContentID = "0123456789abcdef012345671a2b3c4d"`,
    `ddb.uuid.modification="${UUIDS.modification}"`,
  ];

  test.each(['1a2b3c4d', '7', 'abc'])('of the CID %s moves nothing, and reaches its other places', (cid) => {
    const text = descriptorText({ extents: [FLAT], cid, ddb, newline: '\r\n' });
    const identity = newIdentity(text, cid.padStart(8, '0'));
    const changed = withIdentity(text, identity);
    expect(changed.length).toBe(text.length);
    const parsed = parseDescriptor(changed, '');
    expect(parsed.cid).toBe(identity.cid);
    expect(parsed.cid).not.toBe(cid.padStart(8, '0'));
    expect(parsed.uuids.modification).toBe(identity.modificationUuid);
    expect(changed).toContain(`0123456789abcdef01234567${identity.cid}"`);
    expect(parsed.parentCid).toBeNull();
    const back = withIdentity(changed, { cid: cid.padStart(8, '0'), modificationUuid: UUIDS.modification });
    const longId = cid === '1a2b3c4d' ? text : text.replace('1a2b3c4d"', `${cid.padStart(8, '0')}"`);
    expect(back).toBe(longId);
  });

  test('of a size changes the line and the cylinders', () => {
    const text = descriptorText({ extents: ['RW 100 ZERO', FLAT], ddb });
    const changed = withSectors(text, 1, 20160, 20260);
    expect(changed).toBe(text.replace('RW 2048', 'RW 20160').replace('cylinders = "2"', 'cylinders = "20"'));
  });

  // VMware and VirtualBox write 16383 cylinders for larger disks, QEMU 65535 at most
  test.each(['16383', '', '7'])('of nothing leaves %j cylinders as they are', (cylinders) => {
    const text = descriptorText({
      extents: [FLAT],
      ddb: [...ddb.slice(0, 2), `ddb.geometry.cylinders = "${cylinders}"`],
    });
    expect(withSectors(text, 0, 2048, 2048)).toBe(text);
  });

  test.each([
    ['ddb.geometry.cylinders = ""', 'ddb.geometry.cylinders = "20"'],
    ['ddb.geometry.cylinders=', 'ddb.geometry.cylinders=20'],
    ['ddb.geometry.cylinders = "1" ', 'ddb.geometry.cylinders = "20" '],
  ])('of a size in %j', (line, changed) => {
    const text = descriptorText({ extents: [FLAT], ddb: [...ddb.slice(0, 2), line] });
    const resized = text.replace('RW 2048', 'RW 20160');
    expect(withSectors(text, 0, 20160, 20160)).toBe(resized.replace(line, changed));
  });

  test('of a size below a cylinder leaves one', () => {
    const text = descriptorText({ extents: [FLAT], ddb });
    expect(withSectors(text, 0, 40, 40)).toContain('cylinders = "1"');
  });

  test('of a parent keeps keys whose values are empty', () => {
    const text = descriptorText({ extents: [FLAT], ddb: ['ddb.uuid.parent=""', 'ddb.uuid.parentmodification = ""'] });
    const changed = withParent(text, { uuids: { image: UUIDS.image, modification: UUIDS.modification } });
    expect(changed).toContain(`ddb.uuid.parent="${UUIDS.image}"`);
    expect(changed).toContain(`ddb.uuid.parentmodification = "${UUIDS.modification}"`);
  });
});
