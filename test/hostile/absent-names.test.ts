// What an image names outside its own directory is refused in the same words whether it is there or not: an image that comes from
// somebody else does not learn which files this machine has, and the user learns what to allow.

import { mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { createDisk, openDisk } from '../../src/disk/index.ts';
import { describeError } from '../../src/errors/index.ts';
import { makeTemporaryDirectory, removeTemporaryDirectory } from '../support/temporary.ts';

const SIZE = 8 * 1024 * 1024;

let folder: string;
let outside: string;
let image: string;
beforeEach(() => {
  folder = makeTemporaryDirectory();
  outside = join(folder, 'outside');
  mkdirSync(outside);
  mkdirSync(join(folder, 'own'));
  image = join(folder, 'own', 'child');
});
afterEach(() => removeTemporaryDirectory(folder));

function refusal(allowBacking: readonly string[] = []): string {
  try {
    openDisk(image, { readOnly: true, allowBacking }).close();
  } catch (error) {
    return describeError(error);
  }
  return 'it was opened';
}

/** A child whose parent lies outside its directory. @returns the parent */
function makeChild(format: string): string {
  const parent = join(outside, `base.${format}`);
  createDisk(parent, format, { size: SIZE, options: new Map() });
  createDisk(image, format, { options: new Map(), backing: parent, backingFormat: format });
  return parent;
}

test.each(['vmdk', 'vpc', 'vhdx', 'qed', 'qcow2', 'qcow'])('the parent of a %s image', (format) => {
  const parent = makeChild(format);
  const present = refusal();
  expect(present).toContain(`${parent} lies outside the image's own directory; add --allow-backing ${outside}`);
  expect(refusal([outside])).toBe('it was opened');
  rmSync(parent);
  expect(refusal()).toBe(present);
  expect(refusal([outside])).toContain(`${parent} of ${image} does not exist`);
  expect(refusal([outside]).match(/does not exist/g)).toHaveLength(1);
  rmSync(outside, { recursive: true });
  expect(refusal(), 'nor is its directory there').toBe(present);
});

test('the parent of a VDI image, which is known by its UUID alone', () => {
  const parent = makeChild('vdi');
  const present = refusal();
  expect(refusal([outside])).toBe('it was opened');
  rmSync(parent);
  expect(refusal()).toBe(present);
});

test('an extent', () => {
  createDisk(image, 'vmdk', { size: SIZE, options: new Map([['subformat', 'monolithicFlat']]) });
  const [own, away] = [join(folder, 'own', 'child-flat.vmdk'), join(outside, 'child-flat.vmdk')];
  renameSync(own, away);
  expect(refusal(), 'in the directory of the image').toContain(`${own} of ${image} does not exist; put it back`);
  writeFileSync(image, readFileSync(image, 'latin1').replace('child-flat', '../outside/child-flat'), 'latin1');
  const present = refusal();
  expect(present).toContain(
    `its extent ${away} lies outside the image's own directory; add --allow-backing ${outside}`,
  );
  expect(refusal([outside])).toBe('it was opened');
  rmSync(away);
  expect(refusal()).toBe(present);
  expect(refusal([outside])).toContain('does not exist; put it back');
});
