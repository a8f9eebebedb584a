// LUKS headers: what was created here opens here with its password only, and every field is refused just outside its limits.
// That QEMU agrees is the business of test/interop/qcow2-leaves.test.ts.

import { beforeAll, describe, expect, test } from 'vitest';
import { createLuksHeader, type LuksOptions, unlockLuks } from '../../../src/codec/luks.ts';
import { describeLuks, readLuksFields, readLuksHeader } from '../../../src/codec/luks-header.ts';
import { type ErrorKind, ImgfuseError } from '../../../src/errors/index.ts';
import { MemoryHostFile } from '../../support/memory-file.ts';

const PASSWORD = Buffer.from('correct horse');
/** Offset of the header in the image; a cluster boundary. */
const AT = 65536;

function imageOf(header: Uint8Array): { file: MemoryHostFile; pointer: { offset: number; length: number } } {
  const content = new Uint8Array(AT + header.length);
  content.set(header, AT);
  return { file: new MemoryHostFile(content, '/disk.qcow2', true), pointer: { offset: AT, length: header.length } };
}

function unlock(header: Uint8Array, password: Uint8Array = PASSWORD) {
  const { file, pointer } = imageOf(header);
  return unlockLuks(file, pointer, password);
}

function errorOf(act: () => unknown): ImgfuseError {
  try {
    act();
  } catch (error) {
    if (error instanceof ImgfuseError) return error;
    throw error;
  }
  throw new Error('nothing was thrown');
}

const optionSets: readonly LuksOptions[] = [
  {},
  { cipherAlg: 'aes-128', hashAlg: 'sha1' },
  { cipherAlg: 'aes-192', hashAlg: 'sha512' },
  { cipherMode: 'cbc', ivgenAlg: 'essiv' },
  { cipherMode: 'cbc', cipherAlg: 'aes-128', ivgenAlg: 'plain', hashAlg: 'sha384' },
  { ivgenAlg: 'essiv', ivgenHashAlg: 'md5', hashAlg: 'md5' },
  { hashAlg: 'sha224' },
];

describe.each(
  optionSets.map((options) => [JSON.stringify(options), options] as const),
)('a header made with %s', (_, options) => {
  const header = createLuksHeader(PASSWORD, { ...options, iterTimeMs: 1 });

  test('gives its volume key to its password and to no other', () => {
    const { key, mode, ivgen, sectorOf } = unlock(header);
    expect(unlock(header).key).toEqual(key);
    const expected = { mode: options.cipherMode ?? 'xts', ivgen: options.ivgenAlg ?? 'plain64', sectorOf: 'host' };
    expect({ mode, ivgen, sectorOf }).toEqual(expected);
    expect(new Set(key).size).toBeGreaterThan(8);
    for (const wrong of ['', 'correct horsf', 'correct horse ', 'Correct horse']) {
      const error = errorOf(() => unlock(header, Buffer.from(wrong)));
      expect(error.kind).toBe('permission');
      expect(error.message).toBe('/disk.qcow2: the password is wrong: it opens none of the 1 active key slots');
    }
  });

  test('has room for eight slots at multiples of 4096, and nothing in the clear', () => {
    expect(header.length % 4096).toBe(0);
    const { file, pointer } = imageOf(header);
    const parsed = readLuksHeader(file, pointer);
    expect(parsed.payloadOffset).toBe(header.length);
    const slotBytes = Math.ceil((parsed.keyBytes * 4000) / 4096) * 4096;
    expect(parsed.slots.map((slot) => slot.materialOffset)).toEqual(
      Array.from({ length: 8 }, (_, i) => 4096 + i * slotBytes),
    );
    expect(parsed.slots.map((slot) => slot.active)).toEqual([true, ...Array.from({ length: 7 }, () => false)]);
    expect(header.length).toBe(4096 + 8 * slotBytes);
    const { key } = unlock(header);
    expect(Buffer.from(header).includes(Buffer.from(key).subarray(0, 8))).toBe(false);
    expect(Buffer.from(header).includes(PASSWORD)).toBe(false);
  });
});

describe('two headers of one password', () => {
  test('share neither key nor salt nor name', () => {
    const [a, b] = [1, 2].map(() => createLuksHeader(PASSWORD, { iterTimeMs: 1 }));
    expect(unlock(a!).key).not.toEqual(unlock(b!).key);
    const facts = [a!, b!].map((header) => readLuksHeader(imageOf(header).file, imageOf(header).pointer));
    expect(facts[0]!.uuid).not.toBe(facts[1]!.uuid);
    expect(facts[0]!.slots[0]!.salt).not.toEqual(facts[1]!.slots[0]!.salt);
    expect(facts[0]!.digestSalt).not.toEqual(facts[1]!.digestSalt);
  });
});

describe('the time that a password takes', () => {
  test('follows the option, with a thousand iterations at least', () => {
    const iterations = (iterTimeMs: number) => {
      const { file, pointer } = imageOf(createLuksHeader(PASSWORD, { iterTimeMs }));
      const { slots, digestIterations } = readLuksHeader(file, pointer);
      return [slots[0]!.iterations, digestIterations] as const;
    };
    const [short] = iterations(1);
    const [long, longDigest] = iterations(200);
    expect(short).toBeGreaterThanOrEqual(1000);
    expect(long).toBeGreaterThan(10 * short);
    expect(longDigest).toBeGreaterThanOrEqual(1000);
  });

  test.each([0, -1, 60_001, Number.NaN])('of %d ms is refused', (iterTimeMs) => {
    expect(errorOf(() => createLuksHeader(PASSWORD, { iterTimeMs })).kind).toBe('usage');
  });
});

describe('creating a header', () => {
  test('refuses what QEMU could not open', () => {
    const aes192 = errorOf(() =>
      createLuksHeader(PASSWORD, { cipherAlg: 'aes-192', cipherMode: 'cbc', iterTimeMs: 1 }),
    );
    expect(aes192.kind).toBe('unsupported');
    const essiv = errorOf(() =>
      createLuksHeader(PASSWORD, { ivgenAlg: 'essiv', ivgenHashAlg: 'sha512', iterTimeMs: 1 }),
    );
    expect(essiv.kind).toBe('unsupported');
  });

  test('leaves the password as it is', () => {
    const password = Buffer.from('abc');
    createLuksHeader(password, { iterTimeMs: 1 });
    unlock(createLuksHeader(password, { iterTimeMs: 1 }), password);
    expect(password.toString()).toBe('abc');
  });
});

describe('info', () => {
  test('has the keys of qemu-img', () => {
    const { file, pointer } = imageOf(
      createLuksHeader(PASSWORD, { iterTimeMs: 1, cipherMode: 'cbc', ivgenAlg: 'essiv' }),
    );
    const facts = describeLuks(readLuksFields(file, pointer));
    expect(facts).toMatchObject({
      format: 'luks',
      'ivgen-alg': 'essiv',
      'ivgen-hash-alg': 'sha256',
      'hash-alg': 'sha256',
      'cipher-alg': 'aes-256',
      'cipher-mode': 'cbc',
      'payload-offset': 4096 + 8 * 131072,
      'master-key-iters': expect.any(Number),
      uuid: expect.stringMatching(/^[0-9a-f-]{36}$/),
    });
    const slots = facts['slots'] as unknown[];
    expect(slots[0]).toEqual({ active: true, iters: expect.any(Number), 'key-offset': 4096, stripes: 4000 });
    expect(slots[7]).toEqual({ active: false, 'key-offset': 4096 + 7 * 131072 });
  });
});

describe('info', () => {
  test.each([
    ['serpent', 'xts-plain64', 64, { 'cipher-alg': 'serpent-256', 'cipher-mode': 'xts', 'ivgen-alg': 'plain64' }],
    ['cast5', 'cbc-plain', 16, { 'cipher-alg': 'cast5-128', 'cipher-mode': 'cbc', 'ivgen-alg': 'plain' }],
    ['aes', 'ctr-essiv:whirlpool', 24, { 'cipher-mode': 'ctr', 'ivgen-alg': 'essiv', 'ivgen-hash-alg': 'whirlpool' }],
    ['x', 'ecb', 7, { 'cipher-alg': 'x-56', 'cipher-mode': 'ecb' }],
  ])('says what the cipher is, known or not: %s %s', (cipher, mode, keyBytes, wanted) => {
    const header = createLuksHeader(PASSWORD, { iterTimeMs: 1 });
    header.fill(0, 8, 104).set(Buffer.from(cipher), 8);
    header.set(Buffer.from(mode), 40);
    header.set(Buffer.from('streebog'), 72);
    new DataView(header.buffer).setUint32(108, keyBytes, false);
    const { file, pointer } = imageOf(header);
    const facts = describeLuks(readLuksFields(file, pointer));
    expect(facts).toMatchObject({ ...wanted, 'hash-alg': 'streebog' });
    expect('ivgen-alg' in facts).toBe('ivgen-alg' in wanted);
    expect(errorOf(() => unlock(header)).kind).toBe('unsupported');
  });

  test('says what is there beyond the limits of an open', () => {
    const header = createLuksHeader(PASSWORD, { iterTimeMs: 1 });
    new DataView(header.buffer).setUint32(212, 0xffffffff, false);
    const { file, pointer } = imageOf(header);
    expect(describeLuks(readLuksFields(file, pointer))['slots']).toMatchObject([
      { iters: 0xffffffff },
      {},
      {},
      {},
      {},
      {},
      {},
      {},
    ]);
    expect(errorOf(() => unlock(header)).kind).toBe('corrupt');
  });
});

describe('a damaged or foreign header', () => {
  let good: Uint8Array;
  beforeAll(() => {
    good = createLuksHeader(PASSWORD, { iterTimeMs: 1 });
  });

  function changed(at: number, value: number | string): Uint8Array {
    const copy = Uint8Array.from(good);
    if (typeof value === 'number') new DataView(copy.buffer).setUint32(at, value, false);
    else copy.set(Buffer.from(value, 'latin1'), at);
    return copy;
  }

  test.each<readonly [what: string, at: number, value: number | string, kind: ErrorKind, sentence: RegExp]>([
    ['no magic', 0, 'LUKS\xba\xbf', 'corrupt', /at offset 65536: its magic is missing/],
    ['version 0', 6, '\0\0', 'unsupported', /version 0;/],
    ['version 2', 6, '\0\x02', 'unsupported', /version 2;/],
    ['another cipher', 8, 'serpent\0', 'unsupported', /the cipher serpent; only aes/],
    ['a cipher name without end', 8, 'a'.repeat(32), 'corrupt', /cipher-name is not a text/],
    ['a cipher name with an escape', 8, 'aes\x1b[2J\0', 'corrupt', /cipher-name is not a text/],
    ['an unknown mode', 40, 'ecb-plain64\0', 'unsupported', /the cipher mode ecb-plain64;/],
    ['an unknown IV', 40, 'xts-benbi\0', 'unsupported', /the cipher mode xts-benbi;/],
    ['a mode with more parts', 40, 'xts-plain64-x\0', 'unsupported', /the cipher mode xts-plain64-x;/],
    ['a mode without IV', 40, 'xts\0', 'unsupported', /the cipher mode xts;/],
    ['an IV hash that is not used', 40, 'xts-plain64:sha256\0', 'unsupported', /the cipher mode/],
    ['essiv without hash', 40, 'cbc-essiv\0', 'unsupported', /essiv takes a hash/],
    ['essiv with a hash of 20 bytes', 40, 'cbc-essiv:sha1\0', 'unsupported', /essiv takes a hash/],
    ['an unknown hash', 72, 'whirlpool\0', 'unsupported', /the hash whirlpool;/],
    ['a hash that every object has', 72, 'constructor\0', 'unsupported', /the hash constructor;/],
    ['a key of 0 bytes', 108, 0, 'corrupt', /key-bytes is 0/],
    ['a key of 16 bytes for xts', 108, 16, 'corrupt', /key-bytes is 16/],
    ['a key of 63 bytes', 108, 63, 'corrupt', /key-bytes is 63/],
    ['a key of 4 GiB', 108, 0xffffffff, 'corrupt', /key-bytes is 4294967295/],
    ['no digest iterations', 164, 0, 'corrupt', /mk-digest-iterations are 0/],
    ['too many digest iterations', 164, 100_000_001, 'corrupt', /mk-digest-iterations are 100000001/],
    ['a slot of unknown state', 208, 1, 'corrupt', /key slot 0 is neither enabled nor disabled/],
    ['the last slot of unknown state', 208 + 7 * 48, 0, 'corrupt', /key slot 7 is neither/],
    ['no iterations', 212, 0, 'corrupt', /iterations of key slot 0 are 0/],
    ['too many iterations', 212, 100_000_001, 'corrupt', /iterations of key slot 0 are 100000001/],
    ['no stripes', 252, 0, 'corrupt', /0 stripes/],
    ['too many stripes', 252, 16385, 'corrupt', /16385 stripes/],
    ['key material in the header', 248, 1, 'corrupt', /key material of slot 0 lies at 512 /],
    ['key material beyond the header', 248, 2068480 / 512 - 499, 'corrupt', /outside the 2068480 bytes/],
    ['key material far outside', 248, 0xffffffff, 'corrupt', /outside the 2068480 bytes/],
    ['no active slot', 208, 0x0000dead, 'corrupt', /no active key slot/],
  ])('is refused: %s', (_what, at, value, kind, sentence) => {
    const error = errorOf(() => unlock(changed(at, value)));
    expect(error.message).toMatch(sentence);
    expect(error.kind).toBe(kind);
    expect(error.message).toContain('/disk.qcow2: ');
  });

  test('is refused where the file or the extension ends inside it', () => {
    const { file } = imageOf(good.subarray(0, 500));
    expect(errorOf(() => unlockLuks(file, { offset: AT, length: good.length }, PASSWORD)).message).toMatch(
      /500 of 592/,
    );
    const whole = imageOf(good).file;
    expect(errorOf(() => unlockLuks(whole, { offset: AT, length: 591 }, PASSWORD)).message).toMatch(/591 of 592/);
    const cut = imageOf(good.subarray(0, 100_000)).file;
    const error = errorOf(() => unlockLuks(cut, { offset: AT, length: good.length }, PASSWORD));
    expect(error.message).toMatch(/key material ends beyond the file/);
  });

  test('does not open when its key material or its digest is damaged', () => {
    for (const at of [4096, 4096 + 255_999, 112, 132]) {
      const copy = Uint8Array.from(good);
      copy[at]! ^= 1;
      expect(errorOf(() => unlock(copy)).kind).toBe('permission');
    }
  });

  test('may have anything in the fields of a disabled slot', () => {
    const copy = changed(208 + 48 + 4, 0xffffffff);
    copy.fill(0xff, 208 + 48 + 8, 208 + 96);
    expect(unlock(copy).key).toEqual(unlock(good).key);
  });
});
