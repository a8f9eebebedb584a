// How the users of a mount are told.

import { expect, it } from 'vitest';
import { cureForUsers, describeUsers } from '../../../src/mounts/users.ts';

it('users of a mount are named with a cure that can be typed', () => {
  const users = {
    loops: [{ device: '/dev/loop0', mountpoints: ["/mnt/it's", '/mnt/b'], autoclear: false }],
    processes: [{ pid: 7, name: 'sh' }],
  };
  expect(describeUsers(users)).toBe("/dev/loop0 (mounted at /mnt/it's, /mnt/b), process 7 (sh)");
  expect(cureForUsers(users)).toBe("umount /mnt/b; umount '/mnt/it'\\''s'; losetup -d /dev/loop0");
  expect(cureForUsers({ loops: [], processes: [] })).toBeNull();
});
