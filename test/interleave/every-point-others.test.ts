// Every point of every situation on Parallels images, on version 1 of qcow, and on qcow2 with other features.

import { existsSync } from 'node:fs';
import { expect, test } from 'vitest';
import { GROUPS, testEveryPoint } from './every-point.ts';
import { ENCRYPTED, FEATURES, SUBJECTS, VERSION_1 } from './interleaving.ts';

testEveryPoint('others');

test('every image is in a group, and every group has a file', () => {
  const grouped = Object.values(GROUPS).flat();
  expect(new Set(grouped)).toEqual(new Set([...SUBJECTS, ...FEATURES, VERSION_1, ENCRYPTED]));
  const files = Object.keys(GROUPS).map((group) => new URL(`every-point-${group}.test.ts`, import.meta.url));
  expect(files.filter((file) => !existsSync(file))).toEqual([]);
});
