// What a killed process had allocated or removed is given back by the next read-write open, after it is durable that nothing
// refers to it; it does not pile up, and nothing else is freed.

import { describe, expect, test } from 'vitest';
import { guestOffset } from '../../../../src/bytes/offsets.ts';
import type { WritableImage } from '../../../../src/format/image-format.ts';
import { qcow2 } from '../../../../src/format/qcow2/index.ts';
import type { MemoryHostFile } from '../../../support/memory-file.ts';
import { createMemoryImage, openImage } from '../../../support/memory-images.ts';
import { RecordingHostFile } from '../../../support/wrapping-files.ts';

const CLUSTER = 4096;

function write(image: WritableImage, cluster: number, count: number, value: number): void {
  image.write(new Uint8Array(count * CLUSTER).fill(value), 0, count * CLUSTER, guestOffset(cluster * CLUSTER));
}

function byteAt(image: WritableImage, cluster: number): number {
  const bytes = new Uint8Array(CLUSTER);
  image.read(bytes, 0, CLUSTER, guestOffset(cluster * CLUSTER));
  expect(new Set(bytes).size).toBe(1);
  return bytes[0]!;
}

function checked(file: MemoryHostFile): { leaks: number; corruptions: number } {
  const { leaks, corruptions } = qcow2.check(file, { repair: 'none', log: () => undefined });
  return { leaks, corruptions };
}

/** An image with 20 clusters of data, as a process leaves it that is killed with 10 more waiting for their links. */
function killed(start = createMemoryImage(qcow2, 2 ** 22, { cluster_size: String(CLUSTER) })): MemoryHostFile {
  const image = openImage(qcow2, start);
  write(image, 0, 20, 1);
  image.flush();
  image.discard(guestOffset(0), 5 * CLUSTER);
  write(image, 100, 10, 2);
  return start.clone();
}

describe('an image of a killed process', () => {
  test('has its leaks given back by the next read-write open, which says so', () => {
    const file = killed();
    const { leaks, corruptions } = checked(file);
    expect(corruptions).toBe(0);
    expect(leaks).toBeGreaterThan(5);
    const said: string[] = [];
    const image = openImage(qcow2, file, { log: (sentence) => said.push(sentence) });
    expect(said.join('\n')).toContain(`freed ${leaks} leaked clusters`);
    expect(checked(file)).toEqual({ leaks: 0, corruptions: 0 });
    write(image, 200, 30, 3);
    for (let cluster = 5; cluster < 20; cluster++) expect(byteAt(image, cluster)).toBe(1);
    image.close();
    expect(checked(file)).toEqual({ leaks: 0, corruptions: 0 });
  });

  test('does not grow by the leaks of one process after the other', () => {
    let file = killed();
    const first = checked(file).leaks;
    for (let round = 0; round < 6; round++) file = killed(file);
    expect(checked(file).leaks).toBeLessThanOrEqual(first + 1);
  });

  test('has no counter lowered before the removal of the last reference is durable (R5)', () => {
    const recording = new RecordingHostFile(killed());
    openImage(qcow2, recording);
    const operations = recording.log.map(({ operation }) => operation);
    expect(operations[0]).toBe('sync');
    expect(operations.indexOf('write')).toBe(1);
    expect(operations.at(-1)).toBe('sync');
  });

  test('is not changed by a read-only open', () => {
    const file = killed();
    const before = file.bytes();
    openImage(qcow2, file.clone(true), { readOnly: true }).close();
    expect(Buffer.compare(file.bytes(), before)).toBe(0);
  });

  test('keeps what may belong to a feature that is not known, until the bit of the feature is gone', () => {
    const file = killed();
    const bytes = file.bytes();
    bytes[88] = 0x80;
    file.write(bytes, 0, 112, 0 as never);
    const { leaks } = checked(file);
    const said: string[] = [];
    openImage(qcow2, file, { log: (sentence) => said.push(sentence) });
    expect(checked(file).leaks).toBe(leaks);
    expect(said.join('\n')).toContain(`${leaks} leaked clusters`);
    openImage(qcow2, file);
    expect(checked(file).leaks).toBe(0);
  });
});
