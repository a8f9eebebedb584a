// The crash model counts its states without making them.

import fc from 'fast-check';
import { expect, test } from 'vitest';
import { countMoments, crashMoments } from '../../support/crash-states.ts';
import { MemoryHostFile } from '../../support/memory-file.ts';
import type { RecordedOperation } from '../../support/wrapping-files.ts';

test('there are as many states as are counted', () => {
  const operation = fc.record({
    operation: fc
      .constantFrom('write', 'write', 'punch-hole', 'sync')
      .map((name): 'write' | 'punch-hole' | 'sync' => name),
    offset: fc.nat(9000),
    file: fc.nat(1),
  });
  fc.assert(
    fc.property(fc.array(operation, { maxLength: 25 }), (operations) => {
      const log = operations.map(
        (each): RecordedOperation => ({ ...each, length: 512, data: new Uint8Array(512).fill(each.offset & 0xff) }),
      );
      const starts = [new MemoryHostFile(new Uint8Array(4096)), new MemoryHostFile(new Uint8Array(8192))];
      let count = 0;
      for (const { moment } of crashMoments(starts, log, () => 0)) {
        expect(moment).toBeLessThanOrEqual(log.length);
        count++;
      }
      expect(countMoments(starts.length, log)).toBe(count);
    }),
    { numRuns: 60 },
  );
});
