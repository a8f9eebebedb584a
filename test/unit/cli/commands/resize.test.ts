// The sizes that resize takes: the new one, or the difference to the present one.

import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { parseResize } from '../../../../src/cli/commands/resize.ts';

describe('sizes of resize', () => {
  it('are absolute or relative', () => {
    expect(parseResize('2M', 5)).toBe(2 ** 21);
    expect(parseResize('+1k', 512)).toBe(1536);
    expect(parseResize('-512', 1024)).toBe(512);
    expect(() => parseResize('-1k', 512)).toThrow(/cannot shrink by 1024/);
    expect(() => parseResize('+8P', 2 ** 52)).toThrow(/too large/);
    expect(() => parseResize('', 0)).toThrow(/not a size/);
    for (const text of ['+', '-', '+-1', '++1']) expect(() => parseResize(text, 0)).toThrow(/not a change of size/);
  });
  it('adding and taking away the same size changes nothing', () => {
    fc.assert(
      fc.property(
        fc.nat(),
        fc.nat(),
        (size, delta) => parseResize(`-${delta}`, parseResize(`+${delta}`, size)) === size,
      ),
    );
  });
});
