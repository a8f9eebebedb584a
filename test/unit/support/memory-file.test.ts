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

test('files have equal fingerprints if and only if lengths, pages and holes are equal', () => {
  const page = (value: number): Uint8Array => new Uint8Array(4096).fill(value);
  const file = new MemoryHostFile(new Uint8Array(12_288).fill(1));
  const before = file.fingerprint();
  const copy = file.clone();
  copy.write(page(2), 0, 4096, hostOffset(4096));
  const changed = copy.fingerprint();
  expect(changed).not.toBe(before);
  expect(file.fingerprint()).toBe(before);
  const other = copy.clone();
  expect(other.fingerprint()).toBe(changed);
  // one bit of a page that the copy has alone
  other.write(Uint8Array.of(3), 0, 1, hostOffset(8000));
  expect(other.fingerprint()).not.toBe(changed);
  other.write(Uint8Array.of(2), 0, 1, hostOffset(8000));
  expect(other.fingerprint()).toBe(changed);
  copy.write(page(1), 0, 4096, hostOffset(4096));
  expect(copy.fingerprint()).toBe(before);
  // the same page elsewhere, a hole for zeros, a longer file
  const [first, second, hole] = [0, 4096, 0].map(() => new MemoryHostFile());
  first!.write(page(5), 0, 4096, hostOffset(0));
  second!.write(page(5), 0, 4096, hostOffset(4096));
  for (const each of [first!, second!, hole!]) each.truncate(8192);
  const zeros = new MemoryHostFile(new Uint8Array(8192));
  const longer = hole!.clone();
  longer.truncate(8704);
  expect(new Set([first!, second!, hole!, zeros, longer].map((each) => each.fingerprint())).size).toBe(5);
});

test('a fingerprint depends on every word of a page and on the order of words', () => {
  const words = new Int32Array(1024).map((_, i) => Math.imul(i + 1, 0x01234567));
  const fingerprint = (changed: Int32Array): string => new MemoryHostFile(new Uint8Array(changed.buffer)).fingerprint();
  const seen = new Set([fingerprint(words)]);
  for (let at = 0; at < 1024; at++) seen.add(fingerprint(words.with(at, words[at]! ^ 0x80000000)));
  for (let at = 0; at + 2 < 1024; at++) {
    for (const other of [at + 1, at + 2]) {
      seen.add(fingerprint(words.with(at, words[other]!).with(other, words[at]!)));
    }
  }
  expect(seen.size).toBe(1 + 1024 + 2 * 1022);
  for (const half of [0, 1]) {
    const parts = [...seen].map((text) => text.split(':')[1 + half]);
    expect(new Set(parts).size).toBeGreaterThan(seen.size - 5);
  }
});
