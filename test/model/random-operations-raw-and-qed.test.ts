// Random operations on every format but qcow2.

import { expect, test } from 'vitest';
import { subjects } from '../support/random-operations.ts';
import { writtenFormats } from '../support/workloads.ts';
import { describeRandomOperations } from './random-operations.ts';

test('every format that is written has a subject', () => {
  expect([...new Set(subjects.map(({ format }) => format.name))].sort()).toEqual(writtenFormats());
});

describeRandomOperations((name) => !name.startsWith('qcow2'));
