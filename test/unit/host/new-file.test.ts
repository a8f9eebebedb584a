// A file that is being made: it appears when it is complete, never over another one, and nothing is left of one that is not.

import {
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { hostOffset } from '../../../src/bytes/offsets.ts';
import { NewFile } from '../../../src/host/new-file.ts';
import { makeTemporaryDirectory, removeTemporaryDirectory } from '../../support/temporary.ts';

/** A tmpfs, which has files without names on every Linux; the temporary directory may lie anywhere. */
const TMPFS = '/dev/shm';

let folder: string;
let path: string;

describe.each(['a tmpfs', 'the temporary directory'])('on %s', (place) => {
  beforeEach(() => {
    folder = place === 'a tmpfs' ? mkdtempSync(join(TMPFS, 'imgfuse-new-')) : makeTemporaryDirectory();
    path = join(folder, 'new');
  });
  afterEach(() => {
    if (place === 'a tmpfs') rmSync(folder, { recursive: true });
    else removeTemporaryDirectory(folder);
  });

  function write(made: NewFile): void {
    made.file.write(Buffer.from('content'), 0, 7, hostOffset(0));
  }

  test('it is there with mode 0600 once it is published', () => {
    const made = NewFile.create(path);
    write(made);
    if (place === 'a tmpfs') expect(readdirSync(folder)).toEqual([]);
    made.publish();
    made.file.close();
    expect(readFileSync(path, 'utf8')).toBe('content');
    expect(statSync(path).mode & 0o777).toBe(0o600);
  });

  test('nothing is left when it is discarded, before or after', () => {
    for (const published of [false, true]) {
      const made = NewFile.create(path);
      write(made);
      if (published) made.publish();
      made.discard();
      made.file.close();
      expect(readdirSync(folder)).toEqual([]);
    }
  });

  test('an existing name is refused at once, a dangling link too, and one that came meanwhile at the end', () => {
    writeFileSync(path, 'older');
    expect(() => NewFile.create(path)).toThrow(`${path} exists already; it is not overwritten`);
    symlinkSync('nowhere', join(folder, 'link'));
    expect(() => NewFile.create(join(folder, 'link'))).toThrow('exists already');
    const made = NewFile.create(join(folder, 'late'));
    if (place === 'a tmpfs') {
      writeFileSync(join(folder, 'late'), 'theirs');
      expect(() => made.publish()).toThrow(`${folder}/late exists already; it is not overwritten`);
      made.discard();
      expect(readFileSync(join(folder, 'late'), 'utf8')).toBe('theirs');
    }
    made.file.close();
    expect(readFileSync(path, 'utf8')).toBe('older');
  });

  test('a temporary one has no name, and holds what is written until it is closed', () => {
    const made = NewFile.temporary(folder);
    expect(readdirSync(folder)).toEqual([]);
    write(made);
    expect(made.file.size()).toBe(7);
    expect(made.file.path.startsWith(`${folder}/imgfuse-`)).toBe(true);
    made.file.close();
    expect(readdirSync(folder)).toEqual([]);
    expect(() => NewFile.temporary(join(folder, 'none'))).toThrow(`${folder}/none does not exist`);
  });

  test('names that cannot be are refused as for every file', () => {
    expect(() => NewFile.create(join(folder, 'none', 'x'))).toThrow(`${folder}/none does not exist`);
    expect(() => NewFile.create(`${path}/`)).toThrow();
    expect(() => NewFile.create(join(folder, 'x'.repeat(300)))).toThrow(/x{300}/);
    expect(existsSync(path)).toBe(false);
  });
});
