// Reads of places that are known ahead: a slow one has those after it fetched, each once; fast ones ask for nothing.

import { expect, test } from 'vitest';
import { type HostOffset, hostOffset } from '../../../src/bytes/offsets.ts';
import { ReadAhead } from '../../../src/host/read-ahead.ts';
import { MemoryHostFile } from '../../support/memory-file.ts';

const PLACE = 512;
const COUNT = 300;
/** in the order of the reads, from the end of the file to its beginning */
const placeAt = (index: number): number => (COUNT - 1 - index) * PLACE;

class SlowFile extends MemoryHostFile {
  readonly fetched: number[] = [];
  slowReads = 0;

  prefetch(offset: HostOffset, length: number): void {
    expect(length).toBe(PLACE);
    this.fetched.push(offset);
  }

  override read(target: Uint8Array, targetOffset: number, length: number, offset: HostOffset): number {
    const until = performance.now() + (this.slowReads-- > 0 ? 2 : 0);
    while (performance.now() < until);
    return super.read(target, targetOffset, length, offset);
  }
}

function slowFile(): SlowFile {
  const file = new SlowFile();
  for (let index = 0; index < COUNT; index++)
    file.write(new Uint8Array(PLACE).fill(index % 251), 0, PLACE, hostOffset(placeAt(index)));
  return file;
}

test('after slow reads each place that follows is fetched once, and none beyond the last', () => {
  const file = slowFile();
  const ahead = new ReadAhead(file, PLACE, COUNT, placeAt);
  const target = new Uint8Array(PLACE);
  file.slowReads = COUNT;
  for (let index = 0; index < COUNT; index++) {
    ahead.read(target, PLACE, index);
    expect(target[0]).toBe(index % 251);
    if (index === 0) expect(file.fetched.length).toBeLessThan(COUNT - 1);
  }
  expect(file.fetched).toEqual(Array.from({ length: COUNT - 1 }, (_, index) => placeAt(index + 1)));
});

test('a file that cannot fetch ahead is read all the same, and beyond its end are zeros', () => {
  const file = new MemoryHostFile(new Uint8Array(PLACE).fill(7));
  const ahead = new ReadAhead(file, PLACE, 2, (index) => index * PLACE);
  const target = new Uint8Array(2 * PLACE).fill(9);
  ahead.read(target, 2 * PLACE, 0);
  expect([target[0], target[PLACE - 1], target[PLACE], target[2 * PLACE - 1]]).toEqual([7, 7, 0, 0]);
});
