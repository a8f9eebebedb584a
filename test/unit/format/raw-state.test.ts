// The virtual size of a raw image, which all of its threads share without a lock.

import { expect, test } from 'vitest';
import { createRawState, RawSize } from '../../../src/format/raw/state.ts';

test('what one thread makes of the virtual size the others see', () => {
  const state = createRawState(2 ** 53 - 512, false);
  const [ours, others] = [new RawSize(state), new RawSize(structuredClone(state))];
  expect(others.virtualSize).toBe(2 ** 53 - 512);
  ours.setVirtualSize(512);
  expect(others.virtualSize).toBe(512);
});
