// The one error class: its kinds, the errno that answers a request, and the line a user sees.

import { constants } from 'node:os';
import { expect, test } from 'vitest';
import { assert, describeError, ERRNO, errnoOf, ImgfuseError } from '../../../src/errors/index.ts';

test('the errno numbers are those of the system', () => {
  for (const [name, number] of Object.entries(ERRNO)) {
    expect([name, (constants.errno as Record<string, number>)[name]]).toEqual([name, number]);
  }
});

test.each([
  ['usage', ERRNO.EINVAL],
  ['missing', ERRNO.ENOENT],
  ['busy', ERRNO.EBUSY],
  ['corrupt', ERRNO.EIO],
  ['unsupported', ERRNO.EOPNOTSUPP],
  ['read-only', ERRNO.EROFS],
  ['io', ERRNO.EIO],
  ['no-space', ERRNO.ENOSPC],
  ['limit', ERRNO.EFBIG],
  ['permission', ERRNO.EACCES],
] as const)('an error of kind %s answers with errno %i, unless it carries one', (kind, errno) => {
  expect(errnoOf(new ImgfuseError(kind, 'x'))).toBe(errno);
  expect(errnoOf(new ImgfuseError(kind, 'x', { errno: 99 }))).toBe(99);
});

test('what we did not throw ourselves answers with EIO', () => {
  for (const thrown of [new Error('x'), new TypeError('x'), 'x', undefined, null, 5])
    expect(errnoOf(thrown)).toBe(ERRNO.EIO);
});

test('a description is one line with the causes', () => {
  const error = new ImgfuseError('io', 'outer', {}, new ImgfuseError('io', 'inner', {}, new Error('root')));
  expect(describeError(error)).toBe('outer (inner (root))');
  expect(describeError('text')).toBe('text');
});

test('an assertion is no ImgfuseError, so that it is seen as a bug', () => {
  expect(() => assert(false, 'x')).toThrow('assertion failed: x');
  expect(() => assert(true, 'x')).not.toThrow();
  try {
    assert(false, 'x');
  } catch (error) {
    expect(error).not.toBeInstanceOf(ImgfuseError);
  }
});
