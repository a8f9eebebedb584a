// The status of a range ends before a damaged entry, and only there: a host that cannot read, or a bug, is never taken for
// the end of a run.

import { describe, expect, test } from 'vitest';
import { ImgfuseError } from '../../../src/errors/index.ts';
import { statusRun } from '../../../src/format/run-mapper.ts';

const CLUSTER = 4096;

/** Data everywhere, cluster by cluster; from byte 8192 on `error` is thrown. */
function mapperThrowing(error: unknown) {
  return {
    map: (offset: number) => {
      if (offset >= 2 * CLUSTER) throw error;
      return { status: 'data', length: CLUSTER };
    },
  };
}

describe('the status of a range with something wrong in its third cluster', () => {
  test('ends before a damaged entry', () => {
    const mapper = mapperThrowing(new ImgfuseError('corrupt', 'an entry leads out of the file'));
    expect(statusRun(mapper, 0, 8 * CLUSTER, CLUSTER)).toEqual({ status: 'data', length: 2 * CLUSTER });
  });

  test.each([
    ['a table that the host cannot read', new ImgfuseError('io', 'EIO')],
    ['a failed assertion', new Error('assertion failed')],
    ['a bug', new TypeError('undefined is not a function')],
  ])('is not known with %s', (_name, error) => {
    expect(() => statusRun(mapperThrowing(error), 0, 8 * CLUSTER, CLUSTER)).toThrow(error);
  });
});
