// What a name in an image stands for: a file, a URL, or something that is not opened here.

import { describe, expect, test } from 'vitest';
import { hasProtocol, meaningOfName } from '../../../src/disk/backing-name.ts';

const json = (value: unknown): string => `json:${typeof value === 'string' ? value : JSON.stringify(value)}`;

test.each([
  ['a:b.qcow2', true],
  [':x', true],
  ['two words:x', true],
  ['nbd://host/disk', true],
  ['./a:b.qcow2', false],
  ['dir/a:b', false],
  ['/a:b', false],
  ['plain', false],
  ['', false],
])('the name %j has a protocol for QEMU: %s', (name, expected) => {
  expect(hasProtocol(name)).toBe(expected);
});

test('a name is a file or a URL, and any other protocol neither', () => {
  expect(meaningOfName('../base.raw')).toEqual({ kind: 'file', path: '../base.raw' });
  expect(meaningOfName('HTTPS://host/x')).toEqual({ kind: 'url', url: 'HTTPS://host/x' });
  for (const name of ['nbd://h/x', 'rbd:pool/x', 'file:base', 'fat:rw:/tmp', 'a:b', ':x'])
    expect(meaningOfName(name)).toMatchObject({ kind: 'other', why: expect.stringContaining('is no plain file') });
});

describe('a json: name that says no more than a driver and a local file', () => {
  test.each([
    ['nested', { driver: 'qcow2', file: { driver: 'file', filename: 'b' } }, 'qcow2'],
    ['flat', { driver: 'raw', 'file.driver': 'file', 'file.filename': 'b' }, 'raw'],
    ['half nested', { driver: 'raw', file: { filename: 'b' }, 'file.driver': 'file' }, 'raw'],
    ['without the driver of the file', { driver: 'qed', file: { filename: 'b' } }, 'qed'],
    ['without a format', { file: { driver: 'file', filename: 'b' } }, undefined],
    ['of the file alone, whose bytes are the disk', { driver: 'file', filename: 'b' }, 'raw'],
    ['with space in it', ' { "driver" : "qcow2" , "file" : { "filename" : "b" } } ', 'qcow2'],
  ])('%s is that file', (_, value, format) => {
    expect(meaningOfName(json(value))).toEqual({
      kind: 'file',
      path: 'b',
      ...(format === undefined ? {} : { format }),
    });
  });

  test.each([
    [{ driver: 'raw', file: { driver: 'host_device', filename: '/dev/vg/lv' } }],
    [{ driver: 'host_device', filename: '/dev/vg/lv' }],
  ])('is the path of a block device: %j', (value) => {
    expect(meaningOfName(json(value))).toEqual({ kind: 'file', path: '/dev/vg/lv', format: 'raw' });
  });

  test('takes the file name as it is when the driver is file, colon and all', () => {
    const file = { driver: 'file', filename: 'nbd:x' };
    expect(meaningOfName(json({ driver: 'raw', file }))).toEqual({ kind: 'file', path: 'nbd:x', format: 'raw' });
    expect(meaningOfName(json({ driver: 'raw', file: { filename: 'nbd:x' } }))).toMatchObject({ kind: 'other' });
  });
});

test.each([
  ['what is no JSON', '{', 'is no JSON object'],
  ['a list', '[]', 'is no JSON object'],
  ['null', 'null', 'is no JSON object'],
  ['nothing', '', 'is no JSON object'],
  ['bytes that are not UTF-8', '{"file.filename":"\udce9"}', 'is no JSON object'],
  ['a driver alone', { driver: 'qcow2' }, 'names no file'],
  ['a server', { driver: 'nbd', server: { type: 'inet' } }, "has the option 'server'"],
  ['another protocol', { driver: 'raw', file: { driver: 'nbd', filename: 'b' } }, "the file driver 'nbd'"],
  ['a CD-ROM', { driver: 'raw', file: { driver: 'host_cdrom', filename: '/dev/sr0' } }, "the file driver 'host_cdrom'"],
  [
    'a part of the file',
    { driver: 'raw', offset: 512, file: { driver: 'file', filename: 'b' } },
    "the option 'offset'",
  ],
  ['an option of the file', { driver: 'raw', file: { driver: 'file', filename: 'b', aio: 'native' } }, "'file.aio'"],
  ['deeper nesting', { driver: 'raw', file: { driver: 'file', file: { filename: 'b' } } }, "'file.file'"],
  ['a node by its name', { driver: 'raw', file: 'node0' }, "the option 'file'"],
  ['a number', { driver: 'raw', 'file.filename': 7 }, "no text for 'file.filename'"],
  ['one thing twice', { file: { filename: 'b' }, 'file.filename': 'c' }, "'file.filename' twice"],
  ['two files', { driver: 'file', filename: 'b', file: { filename: 'c' } }, 'names no single file'],
  ['a file name where none belongs', { driver: 'raw', filename: 'b' }, "which only the driver 'file' takes"],
  ['an empty file name', { driver: 'file', filename: '' }, 'a file name that is none'],
  ['a NUL', { driver: 'file', filename: 'a\0b' }, 'a file name that is none'],
  ['an escape that is no character', '{"driver":"file","filename":"\\udce9"}', 'a file name that is none'],
  ['__proto__', '{"__proto__":{"driver":"file"},"file.filename":"b"}', "the option '__proto__'"],
])('json: with %s is refused by name', (_, value, words) => {
  const meaning = meaningOfName(json(value));
  expect(meaning.kind).toBe('other');
  expect(meaning).toMatchObject({ why: expect.stringContaining(words) });
  expect(meaning).toMatchObject({ why: expect.stringContaining('a driver and a local file, and nothing else') });
});
