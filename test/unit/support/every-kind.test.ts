// The table of all kinds of images: no format is missing, and each image reads as its row says.

import { afterEach, beforeEach, expect, test } from 'vitest';
import { inspectDisk } from '../../../src/disk/index.ts';
import { formats } from '../../../src/disk/registry.ts';
import { EVERY_KIND } from '../../support/every-kind.ts';
import { firstDifference, readAll, withDisk } from '../../support/image-files.ts';
import { makeTemporaryDirectory, removeTemporaryDirectory } from '../../support/temporary.ts';

let folder: string;
beforeEach(() => {
  folder = makeTemporaryDirectory();
});
afterEach(() => removeTemporaryDirectory(folder));

test('every format has a row, and what is written has one that is', () => {
  for (const { name, can } of formats) {
    const rows = EVERY_KIND.filter(({ format }) => format === name);
    expect(rows.some(({ isWritable }) => isWritable)).toBe(can.write);
    expect(rows.length).toBeGreaterThan(0);
    expect(rows.some(({ hasBacking }) => hasBacking)).toBe(can.backing);
  }
});

test.each(EVERY_KIND)('$name', ({ format, make }) => {
  const { image, content } = make(folder);
  expect(inspectDisk(image)).toMatchObject({ format, virtualSize: content.length });
  withDisk(image, { readOnly: true }, (disk) => expect(firstDifference(readAll(disk), content)).toBe('none'));
});
