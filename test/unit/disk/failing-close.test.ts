// Files whose close(2) answers EIO: the others are closed all the same, and the error that is reported is the one that came
// first. A descriptor that stays open would keep its image locks.

import { readdirSync, readlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { guestOffset } from '../../../src/bytes/offsets.ts';
import { checkDisk, createDisk, inspectDisk, openDisk } from '../../../src/disk/index.ts';
import { closeAndReopenDisk } from '../../../src/disk/open.ts';
import { VirtualDisk } from '../../../src/disk/virtual-disk.ts';
import { ImgfuseError } from '../../../src/errors/index.ts';
import { qed } from '../../../src/format/qed/index.ts';
import { PosixHostFile } from '../../../src/host/posix-file.ts';
import { createMemoryImage, openImage } from '../../support/memory-images.ts';
import { makeTemporaryDirectory, removeTemporaryDirectory } from '../../support/temporary.ts';

let folder: string;
let image: string;

beforeEach(() => {
  folder = makeTemporaryDirectory();
  image = join(folder, 'disk.qed');
  writeFileSync(join(folder, 'base.raw'), Buffer.alloc(65536, 7));
  createDisk(image, 'qed', { options: new Map(), backing: 'base.raw', backingFormat: 'raw' });
});
afterEach(() => {
  vi.restoreAllMocks();
  removeTemporaryDirectory(folder);
});

function openFiles(): string[] {
  return readdirSync('/proc/self/fd').flatMap((fd) => {
    try {
      const target = readlinkSync(`/proc/self/fd/${fd}`);
      return target.startsWith(folder) ? [target] : [];
    } catch {
      return [];
    }
  });
}

/** close(2) gives the descriptor back also when it answers EIO. */
function failEveryClose(): void {
  const close = PosixHostFile.prototype.close;
  vi.spyOn(PosixHostFile.prototype, 'close').mockImplementation(function (this: PosixHostFile) {
    close.call(this);
    throw new ImgfuseError('io', `${this.path} close failed (EIO)`, { path: this.path, operation: 'close' });
  });
}

function errorOf(action: () => unknown): ImgfuseError {
  try {
    action();
  } catch (error) {
    if (error instanceof ImgfuseError) return error;
    throw error;
  }
  throw new Error('nothing was thrown');
}

describe('closing files that answer EIO', () => {
  test('a disk closes its whole chain and says what failed first', () => {
    const disk = openDisk(image, { readOnly: false });
    failEveryClose();
    expect(errorOf(() => disk.close()).message).toBe(`${image} close failed (EIO)`);
    expect(openFiles()).toEqual([]);
  });

  test('a disk that cannot be flushed says so, and not that a file does not close', () => {
    const file = createMemoryImage(qed, 65536);
    const top = openImage(qed, file);
    const closed: string[] = [];
    vi.spyOn(file, 'close').mockImplementation(() => {
      closed.push('file');
      throw new Error('does not close');
    });
    vi.spyOn(top, 'close').mockImplementation(() => {
      throw new ImgfuseError('io', 'fdatasync failed');
    });
    expect(errorOf(() => new VirtualDisk(top).close()).message).toContain(
      'could not be closed clean: fdatasync failed',
    );
    expect(closed).toEqual(['file']);
  });

  test('an open that is refused says why, and leaves nothing open', () => {
    createDisk(join(folder, 'other.qed'), 'qed', {
      size: 65536,
      options: new Map(),
      backing: 'missing.raw',
      backingFormat: 'raw',
    });
    failEveryClose();
    const error = errorOf(() => openDisk(join(folder, 'other.qed'), { readOnly: false }));
    expect(error.kind).toBe('missing');
    expect(error.message).toContain('missing.raw');
    expect(openFiles()).toEqual([]);
  });

  test('a check and an inspection of what is no image say that', () => {
    failEveryClose();
    const base = join(folder, 'base.raw');
    expect(errorOf(() => checkDisk(base, { repair: 'none', log: () => undefined })).kind).toBe('unsupported');
    expect(errorOf(() => inspectDisk(base, { format: 'qed' })).kind).toBe('corrupt');
    expect(openFiles()).toEqual([]);
  });

  test('an image that cannot be created says why, and no file is left', () => {
    failEveryClose();
    const options = new Map([['colour', 'red']]);
    expect(errorOf(() => createDisk(join(folder, 'new.qed'), 'qed', { size: 512, options })).kind).toBe('usage');
    expect(readdirSync(folder)).not.toContain('new.qed');
    expect(openFiles()).toEqual([]);
  });

  test('a disk that is closed and opened again is open', () => {
    const disk = openDisk(image, { readOnly: false });
    failEveryClose();
    const { disk: next, failure } = closeAndReopenDisk(disk, { readOnly: true });
    expect((failure as Error).message).toContain('close failed (EIO)');
    const byte = new Uint8Array(1);
    expect(next.read(byte, 0, 1, guestOffset(0))).toBe(1);
    expect(byte[0]).toBe(7);
    vi.restoreAllMocks();
    next.close();
  });
});
