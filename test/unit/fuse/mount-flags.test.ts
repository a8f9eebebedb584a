// Option strings of mount(2) and fusermount3.

import { describe, expect, test } from 'vitest';
import {
  type FuseMountOptions,
  flagsLeftOut,
  fusermountOptions,
  mountData,
  mountFlagBits,
} from '../../../src/fuse/mount-flags.ts';

const PLAIN: FuseMountOptions = {
  source: '/vm/disk.qed',
  readOnly: false,
  allowOther: false,
  defaultPermissions: false,
  flags: [],
};

describe('mount(2)', () => {
  test('flags become bits', () => {
    expect(mountFlagBits({ ...PLAIN, flags: ['rw', 'nosuid', 'nodev', 'noexec', 'noatime'] })).toBe(2 | 4 | 8 | 1024);
    expect(mountFlagBits({ ...PLAIN, flags: ['sync', 'dirsync'], readOnly: true })).toBe(16 | 128 | 1);
    expect(mountFlagBits({ ...PLAIN, flags: ['relatime', 'nosymfollow'] })).toBe(256);
  });

  test.each(['nosuch', 'toString', 'fd=3'])('the flag %s is refused by name', (flag) => {
    expect(() => mountFlagBits({ ...PLAIN, flags: [flag] })).toThrow(flag);
  });

  test('the data names descriptor, type of the root and user', () => {
    expect(mountData(PLAIN, 17, 0o040000, 0, 5)).toBe('fd=17,rootmode=40000,user_id=0,group_id=5,max_read=1048576');
    const all = { ...PLAIN, allowOther: true, defaultPermissions: true, maxRead: 65536 };
    expect(mountData(all, 3, 0o100000, 7, 8)).toBe(
      'fd=3,rootmode=100000,user_id=7,group_id=8,max_read=65536,allow_other,default_permissions',
    );
  });

  test('max_read is never above what a reply holds', () => {
    expect(mountData({ ...PLAIN, maxRead: 2 ** 30 }, 3, 0o40000, 0, 0)).toContain('max_read=1048576');
  });

  test.each([4095, 0, -1, 1.5, Number.NaN])('max_read=%d is refused', (maxRead) => {
    expect(() => mountData({ ...PLAIN, maxRead }, 3, 0o40000, 0, 0)).toThrow('max_read');
  });
});

describe('fusermount3', () => {
  test('gets no flag that it does not take or that only root may give, and which are left out can be told', () => {
    const flags = ['rw', 'dev', 'suid', 'noatime', 'nodiratime', 'relatime', 'lazytime', 'nodev', 'noexec', 'sync'];
    expect(fusermountOptions({ ...PLAIN, flags })).toBe(
      'noatime,nodev,noexec,sync,fsname=/vm/disk.qed,subtype=imgfuse,max_read=1048576',
    );
    expect(flagsLeftOut(flags)).toEqual(['nodiratime', 'lazytime']);
  });

  test('gets ro once', () => {
    expect(
      fusermountOptions({ ...PLAIN, readOnly: true, flags: ['ro'] })
        .split(',')
        .filter((o) => o === 'ro'),
    ).toHaveLength(1);
  });

  test('commas and backslashes of the source are escaped', () => {
    expect(fusermountOptions({ ...PLAIN, source: '/a,b\\c' })).toContain('fsname=/a\\,b\\\\c,subtype');
  });
});
