// The options of create -o.

import { expect, it } from 'vitest';
import { parseFormatOptions } from '../../../../src/cli/commands/create.ts';

it('format options are key=value, a doubled comma is a comma', () => {
  expect([...parseFormatOptions(['a=1,b=x,,y', 'c='])]).toEqual([
    ['a', '1'],
    ['b', 'x,y'],
    ['c', ''],
  ]);
  expect(() => parseFormatOptions(['cluster_size'])).toThrow(/key=value/);
});
