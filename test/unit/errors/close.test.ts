// Closing several things: all of them are closed, and the first error is the one that is thrown.

import { describe, expect, test } from 'vitest';
import { type Closeable, closeAll, closeQuietly, closingAfter, closingOnFailure } from '../../../src/errors/close.ts';

/** Three things of which the second and the third cannot be closed. */
function three(): { closed: string[]; list: Closeable[] } {
  const closed: string[] = [];
  const list = ['first', 'second', 'third'].map((name) => ({
    close: () => {
      closed.push(name);
      if (name !== 'first') throw new Error(`${name} does not close`);
    },
  }));
  return { closed, list };
}

const ALL = ['first', 'second', 'third'];

describe('several things of which two do not close', () => {
  test('are all closed, and the first failing close is thrown', () => {
    const { closed, list } = three();
    expect(() => closeAll(list)).toThrow('second does not close');
    expect(closed).toEqual(ALL);
  });

  test('are all closed without a word for a caller that has its own error', () => {
    const { closed, list } = three();
    closeQuietly(list);
    expect(closed).toEqual(ALL);
  });

  test('are closed after a failing action, whose error is thrown', () => {
    for (const run of [closingAfter, closingOnFailure]) {
      const { closed, list } = three();
      const action = () => {
        throw new Error('the reason');
      };
      expect(() => run(() => list, action)).toThrow('the reason');
      expect(closed).toEqual(ALL);
    }
  });

  test('are closed after an action that succeeds, unless they are for its caller', () => {
    const { closed, list } = three();
    expect(
      closingOnFailure(
        () => list,
        () => 42,
      ),
    ).toBe(42);
    expect(closed).toEqual([]);
    expect(() =>
      closingAfter(
        () => list,
        () => 42,
      ),
    ).toThrow('second does not close');
    expect(closed).toEqual(ALL);
  });
});
