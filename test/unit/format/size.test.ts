// Sizes as they are typed, and what is said about what is none.

import { describe, expect, it } from 'vitest';
import { parseSize } from '../../../src/format/size.ts';

describe('sizes', () => {
  it.each([
    ['10GB', '10G'],
    ['10GiB', '10G'],
    ['1.5 gb', '1.5G'],
    ['1,5G', '1.5G'],
    ['-5k', '5k'],
    ['abc', '10G'],
    ['1e9', '10G'],
  ])('%s is no size, and %s is what one would look like', (text, like) => {
    expect(() => parseSize(text)).toThrow(`"${text}" is not a size; `);
    expect(() => parseSize(text)).toThrow(new RegExp(`, such as ${like}$`));
  });
  it('that are the value of an option are named with it', () => {
    expect(() => parseSize('x', 'cluster_size')).toThrow(/^cluster_size=x is not a size/);
    expect(() => parseSize('1.5', 'table_size')).toThrow(/^table_size=1.5 is not a whole number/);
    expect(() => parseSize('9P', 'cluster_size')).toThrow(/cluster_size=9P is too large/);
  });
});
