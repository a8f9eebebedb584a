// How the users of a mount are told.

import { describe, expect, it } from 'vitest';
import { cureForUsers, describeUsers, isMountedFrom } from '../../../src/mounts/users.ts';

it('users of a mount are named with a cure that can be typed', () => {
  const users = {
    loops: [{ device: '/dev/loop0', mountpoints: ["/mnt/it's", '/mnt/b'], autoclear: false }],
    processes: [{ pid: 7, name: 'sh' }],
  };
  expect(describeUsers(users)).toBe("/dev/loop0 (mounted at /mnt/it's, /mnt/b), process 7 (sh)");
  expect(cureForUsers(users)).toBe("umount /mnt/b; umount '/mnt/it'\\''s'; losetup -d /dev/loop0");
  expect(cureForUsers({ loops: [], processes: [] })).toBeNull();
});

describe('a mount from a loop device', () => {
  const loop = {
    device: '/dev/loop7',
    names: ['/dev/loop7', '/dev/loop7p1'],
    numbers: ['7:7', '259:3'],
    autoclear: true,
  };
  const entry = { id: 1, mountpoint: '/mnt', type: 'ext4', readOnly: false, options: [] };

  it('is known by the number of the device or of a partition of it', () => {
    expect(isMountedFrom(loop, { ...entry, source: '/dev/root', major: 7, minor: 7 })).toBe(true);
    expect(isMountedFrom(loop, { ...entry, source: '/dev/root', major: 259, minor: 3 })).toBe(true);
    expect(isMountedFrom(loop, { ...entry, source: '/dev/loop70', major: 7, minor: 70 })).toBe(false);
  });

  it('is known by its source if it has a number of its own, as btrfs has', () => {
    expect(isMountedFrom(loop, { ...entry, type: 'btrfs', source: '/dev/loop7', major: 0, minor: 42 })).toBe(true);
    expect(isMountedFrom(loop, { ...entry, type: 'btrfs', source: '/dev/loop77', major: 0, minor: 42 })).toBe(false);
  });
});
