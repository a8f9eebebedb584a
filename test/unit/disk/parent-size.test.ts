// A child whose disk is not as long as its parent's: where other programs refuse that, an open, info and check say so in one sentence.

import { mkdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { checkDisk, createDisk, inspectDisk, openDisk } from '../../../src/disk/index.ts';
import { makeTemporaryDirectory, removeTemporaryDirectory } from '../../support/temporary.ts';

const MIB = 1024 * 1024;
const NO_OPTIONS = new Map<string, string>();

let folder: string;
let base: string;
let child: string;
beforeEach(() => {
  folder = makeTemporaryDirectory();
  // a VDI looks for its parent among files of that ending
  base = join(folder, 'base.vdi');
  child = join(folder, 'child');
});
afterEach(() => removeTemporaryDirectory(folder));

/** @param size of the child; its parent has 4 MiB */
function make(format: string, size: number, place = base): void {
  createDisk(place, format, { size: 4 * MIB, options: NO_OPTIONS });
  createDisk(child, format, { size, options: NO_OPTIONS, backing: place, backingFormat: format });
}

/** What each way to look at an image says of the sizes. */
function said(path = child, allowBacking: readonly string[] = []): string[][] {
  const looks: readonly ((log: (sentence: string) => void) => void)[] = [
    (log) => openDisk(path, { readOnly: true, log, allowBacking }).close(),
    (log) => openDisk(path, { readOnly: false, log, allowBacking }).close(),
    (log) => void inspectDisk(path, { log }),
    (log) => void checkDisk(path, { repair: 'none', log, allowBacking }),
  ];
  return looks.map((look) => {
    const sentences: string[] = [];
    look((sentence) => sentences.push(sentence));
    return sentences.filter((sentence) => sentence.includes('refuses a child'));
  });
}

function nowhere(): string[][] {
  return [[], [], [], []];
}

describe.each([
  ['vmdk', 'VMware'],
  ['vpc', 'Windows'],
])('a %s child', (format, program) => {
  test.each([
    [6 * MIB, () => `imgfuse commit ${child} makes the parent as long`],
    [3 * MIB, () => `imgfuse resize ${child} ${4 * MIB} makes it as long`],
  ])('of %i bytes is said to be of another size, and what mends that', (size, cure) => {
    make(format, size);
    const sentence =
      `the disk of ${child} has ${size} bytes and that of its parent ${base} ${4 * MIB}, and ${program} refuses a child of another ` +
      `size; ${cure()}`;
    expect(said()).toEqual([[sentence], [sentence], [sentence], [sentence]]);
  });

  test('of the same size is not spoken of, and neither is a parent', () => {
    make(format, 4 * MIB);
    expect(said()).toEqual(nowhere());
    expect(said(base)).toEqual(nowhere());
  });

  test('is as long as its parent after the cure', () => {
    make(format, 3 * MIB);
    const disk = openDisk(child, { readOnly: false });
    disk.resize(4 * MIB);
    disk.close();
    expect(said()).toEqual(nowhere());
  });

  test('below another image is spoken of when that is opened', () => {
    make(format, 6 * MIB);
    const top = join(folder, 'top');
    createDisk(top, 'qcow2', { options: NO_OPTIONS, backing: child, backingFormat: format });
    expect(said(top).map((sentences) => sentences.length)).toEqual([1, 1, 0, 0]);
  });

  test('whose parent may not be opened, or is gone, is shown and checked without a word', () => {
    const away = join(folder, 'away');
    mkdirSync(away);
    mkdirSync(join(folder, 'here'));
    child = join(folder, 'here', 'child');
    make(format, 6 * MIB, join(away, 'base'));
    expect(said(child, [away]).map((sentences) => sentences.length)).toEqual([1, 1, 0, 1]);
    rmSync(join(away, 'base'));
    const sentences: string[] = [];
    const log = (sentence: string): void => void sentences.push(sentence);
    inspectDisk(child, { log });
    checkDisk(child, { repair: 'none', log });
    expect(sentences).toEqual([]);
  });
});

test.each(['vdi', 'qcow2', 'qed'])('a %s child may be of any size', (format) => {
  make(format, 6 * MIB);
  expect(said()).toEqual(nowhere());
});
