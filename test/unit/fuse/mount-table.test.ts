// /proc/self/mountinfo: fields, optional tags, escapes.

import { expect, test } from 'vitest';
import { findMount, listMounts, parseMountInfo, readMountTable } from '../../../src/fuse/mount-table.ts';

function parse(text: string) {
  return parseMountInfo(Buffer.from(text));
}

test('a FUSE mount gives mountpoint, source, connection and options', () => {
  const line =
    '36 35 0:47 / /mnt/img rw,nosuid,nodev,relatime shared:7 master:1 - fuse.imgfuse /vm/disk.qed rw,user_id=0,max_read=1048576\n';
  expect(parse(line)).toEqual([
    {
      id: 36,
      mountpoint: '/mnt/img',
      source: '/vm/disk.qed',
      type: 'fuse.imgfuse',
      major: 0,
      minor: 47,
      readOnly: false,
      options: ['rw', 'nosuid', 'nodev', 'relatime', 'user_id=0', 'max_read=1048576'],
    },
  ]);
});

test('a mount without optional tags is read as well', () => {
  expect(parse('1 0 8:1 / / ro - ext4 /dev/sda1 rw\n')).toMatchObject([
    { major: 8, minor: 1, type: 'ext4', readOnly: true },
  ]);
});

test('octal escapes decode to bytes, and the bytes are UTF-8', () => {
  const line = '1 0 0:5 / /mnt/a\\040b\\011c\\012d\\134e rw - fuse.imgfuse /vm/\\043\\303\\244ä,x rw\n';
  expect(parse(line)).toMatchObject([{ mountpoint: '/mnt/a b\tc\nd\\e', source: '/vm/#ää,x' }]);
});

test('an escaped backslash before digits is not decoded twice', () => {
  expect(parse('1 0 0:5 / /mnt/\\134040 rw - tmpfs none rw\n')[0]?.mountpoint).toBe('/mnt/\\040');
});

test('a source that is empty or a dash does not shift the fields', () => {
  expect(parse('1 0 0:5 / /m rw - fuse.imgfuse  rw,allow_other\n')[0]).toMatchObject({
    source: '',
    type: 'fuse.imgfuse',
  });
  expect(parse('1 0 0:5 / /m rw shared:1 - fuse.imgfuse - rw\n')[0]).toMatchObject({
    source: '-',
    type: 'fuse.imgfuse',
  });
});

test('lines that are no mounts are left out', () => {
  expect(parse('\nnonsense\n1 2\n')).toEqual([]);
});

test('the table of this process has the root and no imgfuse mount at it', () => {
  expect(readMountTable().some((entry) => entry.mountpoint === '/')).toBe(true);
  expect(findMount('/')).toBeUndefined();
  expect(listMounts().every((entry) => entry.type === 'fuse.imgfuse')).toBe(true);
});
