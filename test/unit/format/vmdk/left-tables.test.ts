// A resize gives back the directories and tables that it leaves behind: nothing else would before the next session that writes, and a
// check would find leaks.

import { describe, expect, test } from 'vitest';
import { guestOffset } from '../../../../src/bytes/offsets.ts';
import type { WritableImage } from '../../../../src/format/image-format.ts';
import { vmdk } from '../../../../src/format/vmdk/index.ts';
import type { MemoryHostFile } from '../../../support/memory-file.ts';
import { checkImage, createMemoryImage, openImage } from '../../../support/memory-images.ts';

const MIB = 1024 * 1024;
const SMALL = 8 * MIB;
const LARGE = 4096 * MIB;

const write = (image: WritableImage, at: number): void => image.write(Buffer.alloc(MIB, 7), 0, MIB, guestOffset(at));

/** A disk of one MiB of data that was grown, so that directories and tables lie behind its first grains. */
function grown(): MemoryHostFile {
  const file = createMemoryImage(vmdk, SMALL, {});
  const image = openImage(vmdk, file);
  write(image, 0);
  image.resize(LARGE);
  image.close();
  return file;
}

function inspectClosed(file: MemoryHostFile) {
  const told: string[] = [];
  const report = checkImage(vmdk, file, { repair: 'none', log: (sentence) => void told.push(sentence) });
  expect(told).toEqual([]);
  expect(report).toMatchObject({ corruptions: 0, leaks: 0, checkErrors: 0 });
  return report;
}

test('a growth leaves no old directory at the end of the file', () => {
  const file = createMemoryImage(vmdk, SMALL, {});
  const image = openImage(vmdk, file);
  for (const mib of [2965, 19, 34, 19, 683, 813]) image.resize(mib * MIB);
  image.close();
  inspectClosed(file);
});

describe('a shrink over many tables', () => {
  test('cuts off tables at the end of the file', () => {
    const file = grown();
    inspectClosed(file);
    const image = openImage(vmdk, file);
    image.resize(SMALL);
    image.close();
    const { allocatedClusters } = inspectClosed(file);
    expect(allocatedClusters).toBe(16);
    // the second directory, with one table, is in the last grain
    expect(file.size()).toBeLessThan(2 * MIB);
  });

  test('takes the place of tables between grains for new grains', () => {
    const file = grown();
    const first = openImage(vmdk, file);
    write(first, 2 * MIB);
    first.close();
    const end = file.size();
    const image = openImage(vmdk, file);
    image.resize(SMALL);
    image.makeClean();
    for (let at = 3 * MIB; at < 3 * MIB + 5 * 65536; at += 65536) {
      image.write(Buffer.alloc(65536, 9), 0, 65536, guestOffset(at));
    }
    image.close();
    const again = openImage(vmdk, file);
    const bytes = Buffer.alloc(SMALL);
    again.read(bytes, 0, SMALL, guestOffset(0));
    again.close();
    expect([bytes[0], bytes[MIB], bytes[2 * MIB], bytes[3 * MIB], bytes[3 * MIB + 5 * 65536]]).toEqual([7, 0, 7, 9, 0]);
    inspectClosed(file);
    expect(file.size()).toBe(end);
  });
});
