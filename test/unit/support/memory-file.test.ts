// Clones of a file in memory are independent of it and of each other, whatever is written, punched or cut.

import fc from 'fast-check';
import { expect, test } from 'vitest';
import { hostOffset } from '../../../src/bytes/offsets.ts';
import { MemoryHostFile } from '../../support/memory-file.ts';

const SIZE = 5 * 4096;

test('a clone and its original change apart from each other', () => {
  const step = fc.record({
    file: fc.nat(3),
    kind: fc.constantFrom('write', 'write', 'punch', 'truncate', 'clone'),
    at: fc.nat(SIZE - 1),
    length: fc.integer({ min: 1, max: 9000 }),
    value: fc.integer({ min: 1, max: 255 }),
  });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 40 }), (steps) => {
      const files = [new MemoryHostFile(new Uint8Array(SIZE).fill(7))];
      const models = [new Uint8Array(SIZE).fill(7)];
      for (const { file: which, kind, at, length, value } of steps) {
        const index = which % files.length;
        const [file, model] = [files[index]!, models[index]!];
        const end = Math.min(model.length, at + length);
        if (kind === 'clone') {
          files.push(file.clone());
          models.push(model.slice());
        } else if (kind === 'truncate') {
          const cut = new Uint8Array(at);
          cut.set(model.subarray(0, at));
          file.truncate(at);
          models[index] = cut;
        } else if (end > at) {
          if (kind === 'write') file.write(new Uint8Array(end - at).fill(value), 0, end - at, hostOffset(at));
          else file.punchHole(hostOffset(at), end - at);
          model.fill(kind === 'write' ? value : 0, at, end);
        }
        for (const [i, each] of files.entries()) expect(Buffer.compare(each.bytes(), models[i]!)).toBe(0);
      }
    }),
    { numRuns: 60 },
  );
});
