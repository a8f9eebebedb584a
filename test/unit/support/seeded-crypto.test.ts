import { randomBytes, randomInt, randomUUID } from 'node:crypto';
import { describe, expect, test } from 'vitest';
import { newUuid } from '../../../src/format/guid.ts';
import { randomCid } from '../../../src/format/vmdk/descriptor/edit.ts';
import { seededCrypto } from '../../support/seeded-crypto.ts';

const identities = () => [newUuid(), randomCid(), randomUUID(), randomBytes(5).toString('hex'), randomInt(3, 9)];

describe('identities of a seed', () => {
  test('are the same each time, and others for another seed', () => {
    const first = seededCrypto(7, identities);
    expect(seededCrypto(7, identities)).toEqual(first);
    expect(seededCrypto(8, identities)[0]).not.toBe(first[0]);
    expect(seededCrypto(7, () => [newUuid(), newUuid()])[1]).not.toBe(first[0]);
  });

  test('go on after those of an inner seed', () => {
    const [one, two] = seededCrypto(7, () => [newUuid(), newUuid()]);
    const around = seededCrypto(7, () => [newUuid(), seededCrypto(8, newUuid), newUuid()]);
    expect([around[0], around[2]]).toEqual([one, two]);
  });

  test('are UUIDs of version 4 and whole numbers in range', () => {
    for (let seed = 0; seed < 50; seed++) {
      expect(seededCrypto(seed, newUuid)).toMatch(
        /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/,
      );
      expect([3, 4]).toContain(seededCrypto(seed, () => randomInt(3, 5)));
    }
  });

  test('are those of the system outside', () => {
    expect(newUuid()).not.toBe(newUuid());
    const first = seededCrypto(7, newUuid);
    expect(newUuid()).not.toBe(first);
  });
});
