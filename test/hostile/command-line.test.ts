// What the command line says about images that cannot be: one sentence on stderr, the documented exit code, no byte
// changed. The rules themselves are tested in this folder's other files.

import { mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { type CommandResult, fingerprints, imgfuse, isBuilt } from '../support/image-files.ts';
import { FILE_BYTES, FIRST_DATA, L2, type QedSpec, u64At, writeQed } from '../support/qed-bytes.ts';
import { requireOrSkip } from '../support/requirements.ts';
import { makeTemporaryDirectory, removeTemporaryDirectory } from '../support/temporary.ts';

let folder: string;
let image: string;
let mountpoint: string;

beforeEach((context) => {
  requireOrSkip(context, isBuilt(), 'dist/cli.js (npm run build)');
  folder = makeTemporaryDirectory();
  image = join(folder, 'disk.qed');
  mountpoint = join(folder, 'mnt');
  mkdirSync(mountpoint);
});
afterEach(() => {
  if (folder !== undefined) removeTemporaryDirectory(folder);
});

function expectRefusal({ code, stderr }: CommandResult, exit: number, ...parts: string[]): void {
  for (const part of parts) expect(stderr).toContain(part);
  expect(stderr.trimEnd().split('\n')).toHaveLength(1);
  expect(code).toBe(exit);
}

describe('mount', () => {
  const cases: readonly (readonly [name: string, spec: QedSpec, exit: number, parts: readonly string[]])[] = [
    ['a header field outside its range', { fields: { clusterSize: 5000n } }, 32, ['offset 4', '5000']],
    ['an unknown feature', { fields: { features: 64n } }, 32, ['offset 16', '0x40']],
    ['a cut file', { length: 5000 }, 32, ['offset 40', '5000 bytes']],
    ['a damaged table', { entries: { [L2]: 99n } }, 32, ['offset 0x2000', '0x63', 'check -r all']],
    ['a missing backing file', { backing: 'gone.raw', backingIsRaw: true }, 32, ['gone.raw']],
    [
      'a backing file outside the directory',
      { backing: '/etc/passwd', backingIsRaw: true },
      1,
      ['/etc/passwd', '--allow-backing'],
    ],
    ['a backing loop', { backing: 'disk.qed' }, 32, ['loop']],
  ];

  test.each(cases)('of an image with %s fails with its sentence and exit code', (_name, spec, exit, parts) => {
    writeQed(image, spec);
    const before = fingerprints(folder);
    expectRefusal(imgfuse('mount', image, mountpoint), exit, image, ...parts);
    expect(fingerprints(folder)).toEqual(before);
  });

  test('of an image that does not exist names it', () => {
    expectRefusal(imgfuse('mount', image, mountpoint), 32, image);
  });
});

describe('check', () => {
  test('exits with 0 for a clean image, 2 for a corrupt one, 3 for leaks, 1 where it cannot be done, 63 for raw', () => {
    writeQed(image);
    expect(imgfuse('check', image).code).toBe(0);
    writeQed(image, { entries: { [L2]: 99n } });
    expect(imgfuse('check', image).code).toBe(2);
    writeQed(image, { length: FILE_BYTES * 2 });
    expect(imgfuse('check', image).code).toBe(3);
    writeQed(image, { fields: { tableSize: 5n } });
    expectRefusal(imgfuse('check', image), 1, 'offset 8', '5');
    expect(imgfuse('check', '-f', 'raw', image).code).toBe(63);
  });

  test('-r all mends what it reports, prints the old value, and the second check finds nothing', () => {
    writeQed(image, { entries: { [L2]: 99n, [L2 + 16]: BigInt(FIRST_DATA + 4096) } });
    const first = imgfuse('check', '-r', 'all', image);
    expect(first.code).toBe(0);
    expect(first.stdout).toContain('0x63');
    expect(first.stdout).toContain('offset 0x2000');
    const second = imgfuse('check', '--output=json', image);
    expect(second.code).toBe(0);
    const report = JSON.parse(second.stdout) as Record<string, unknown>;
    expect(report['corruptions'] ?? 0).toBe(0);
    expect(report['leaks'] ?? 0).toBe(0);
    expect(u64At(readFileSync(image), 16)).toBe(0n);
  });
});

test('info and map of a damaged header say the same sentence as a mount', () => {
  writeQed(image, { fields: { l1TableOffset: 1n } });
  for (const command of ['info', 'map']) expectRefusal(imgfuse(command, image), 1, image, 'offset 40', '0x1');
});
