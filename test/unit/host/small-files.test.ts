// Small files: whole or not there, whatever lies in the way.

import { lstatSync, mkdirSync, readdirSync, readFileSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { writeWhole } from '../../../src/host/small-files.ts';
import { makeTemporaryDirectory, removeTemporaryDirectory } from '../../support/temporary.ts';

let folder: string;
beforeEach(() => {
  folder = makeTemporaryDirectory();
});
afterEach(() => removeTemporaryDirectory(folder));

describe('writeWhole', () => {
  it('replaces what was there, with the mode that was asked for whatever the umask', () => {
    const path = join(folder, 'file');
    writeFileSync(path, 'before', { mode: 0o600 });
    const umask = process.umask(0o077);
    writeWhole(path, 'after', 0o644);
    process.umask(umask);
    expect(readFileSync(path, 'utf8')).toBe('after');
    expect(statSync(path).mode & 0o777).toBe(0o644);
    expect(readdirSync(folder)).toEqual(['file']);
  });

  it('follows no symbolic link', () => {
    writeFileSync(join(folder, 'precious'), 'precious');
    for (const name of ['file', 'file.tmp']) symlinkSync('precious', join(folder, name));
    writeWhole(join(folder, 'file'), 'content', 0o600);
    expect(lstatSync(join(folder, 'file')).isFile()).toBe(true);
    expect(readFileSync(join(folder, 'precious'), 'utf8')).toBe('precious');
  });

  it('leaves nothing when it fails', () => {
    mkdirSync(join(folder, 'directory'));
    expect(() => writeWhole(join(folder, 'directory'), 'content', 0o600)).toThrow();
    expect(readdirSync(folder)).toEqual(['directory']);
  });
});
