// The identity of a file is exact where its inode number is beyond what a JavaScript number can say.

import fc from 'fast-check';
import { expect, test } from 'vitest';
import { identityOf, isSameFile } from '../../../src/host/file-identity.ts';

const NEIGHBOURS = [2n ** 53n, 2n ** 53n + 1n, 2n ** 63n + 2n, 2n ** 63n + 3n, 2n ** 64n - 2n, 2n ** 64n - 1n];

test('neighbours above 2^53 are two files, on one device and on two', () => {
  for (const ino of NEIGHBOURS) {
    for (const other of NEIGHBOURS) {
      expect(isSameFile(identityOf({ dev: 41n, ino }), identityOf({ dev: 41n, ino: other }))).toBe(ino === other);
      expect(isSameFile(identityOf({ dev: 41n, ino }), identityOf({ dev: 42n, ino: other }))).toBe(false);
    }
  }
});

test('a number is the digits that /proc/locks has, although fs.stat gives it a sign', () => {
  fc.assert(
    fc.property(fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }), (ino) => {
      expect(identityOf({ dev: 1n, ino: BigInt.asIntN(64, ino) })).toEqual({ device: '1', inode: String(ino) });
    }),
  );
});
