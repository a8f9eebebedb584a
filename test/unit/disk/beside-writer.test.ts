// Reading beside a writer (share, or no locks). The file may show any state in which a writer leaves it: an entry before the bytes that
// it leads to, and tables that are not those that were read. No read fails for that, and what is damaged for good fails as ever.

import { closeSync, ftruncateSync, openSync, readFileSync, statSync, writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { guestOffset, hostOffset } from '../../../src/bytes/offsets.ts';
import {
  attachDisk,
  createDisk,
  inspectDisk,
  type OpenDiskOptions,
  openDisk,
  type VirtualDisk,
} from '../../../src/disk/index.ts';
import type { InspectOptions } from '../../../src/disk/info.ts';
import { formats } from '../../../src/disk/registry.ts';
import { createRounds, ImageBesideWriter } from '../../../src/disk/share/image-beside-writer.ts';
import type { ImageFormat, WritableFormat } from '../../../src/format/image-format.ts';
import { MemoryHostFile } from '../../support/memory-file.ts';
import { createMemoryImage, openImage } from '../../support/memory-images.ts';
import { hasQemu, qemuImg, qemuIo } from '../../support/qemu.ts';
import { requireOrSkip } from '../../support/requirements.ts';
import { makeTemporaryDirectory, removeTemporaryDirectory } from '../../support/temporary.ts';
import { FaultyHostFile, readOnlyView } from '../../support/wrapping-files.ts';

const MIB = 1024 * 1024;
const SIZE = 32 * MIB;
const BLOCK = 64 * 1024;
/** Written before the image is opened to read, and while it is read: two clusters of every format, the first L2 table of both. */
const OLD_AT = 0;
const NEW_AT = 8 * MIB;
/** every format that is written and has tables */
const FORMATS = formats.filter((format): format is WritableFormat => format.can.write && format.name !== 'raw');
const SMALL: Readonly<Record<string, Readonly<Record<string, string>>>> = {
  qcow2: { cluster_size: '64k' },
  qed: { cluster_size: '64k', table_size: '1' },
  // one L2 table for both
  qcow: {},
};

/** The bytes of an image before and after a writer took a place in it. */
function grown(format: WritableFormat): { readonly before: Uint8Array; readonly after: Uint8Array } {
  const file = createMemoryImage(format, SIZE, SMALL[format.name] ?? {});
  const write = (at: number, value: number): Uint8Array => {
    const image = openImage(format, file);
    image.write(Buffer.alloc(BLOCK, value), 0, BLOCK, guestOffset(at));
    image.close();
    return file.bytes();
  };
  return { before: write(OLD_AT, 1), after: write(NEW_AT, 2) };
}

/** What a block is filled with. */
function valueAt(disk: { read: VirtualDisk['read'] | ImageBesideWriter['read'] }, at: number): number {
  const bytes = Buffer.alloc(BLOCK, 0xee);
  disk.read(bytes, 0, BLOCK, guestOffset(at));
  expect(bytes.every((byte) => byte === bytes[0])).toBe(true);
  return bytes[0]!;
}

function beside(format: ImageFormat, file: ConstructorParameters<typeof FaultyHostFile>[0]): ImageBesideWriter {
  return new ImageBesideWriter(format, openImage(format, file, { readOnly: true }), createRounds());
}

/** Where a writer that is in the midst of it makes an image look damaged: every copy of the header, its magic aside. */
const HALF_WRITTEN: Readonly<Record<string, readonly number[]>> = {
  vhdx: [0x10100, 0x20100],
  parallels: [28],
};

describe.each(Object.keys(HALF_WRITTEN))('the first look at an image of %s whose header is half written', (format) => {
  let folder: string;
  let path: string;
  let whole: Buffer;
  beforeEach(() => {
    folder = makeTemporaryDirectory();
    path = join(folder, 'disk');
    createDisk(path, format, { size: SIZE, options: new Map() });
    whole = readFileSync(path);
    const damaged = Buffer.from(whole);
    for (const at of HALF_WRITTEN[format]!) damaged.fill(0xff, at, at + 8);
    writeFileSync(path, damaged);
  });
  afterEach(() => removeTemporaryDirectory(folder));

  /** Options that are asked for at each look: at the second one the writer is done. */
  function whileWritten<Options extends object>(options: Options): Options {
    let looks = 0;
    Object.defineProperty(options, 'format', {
      enumerable: true,
      get: () => {
        if (looks++ > 0) writeFileSync(path, whole);
        return undefined;
      },
    });
    return options;
  }

  test('is taken again beside a writer', () => {
    const said: string[] = [];
    const log = (sentence: string): void => void said.push(sentence);
    const disk = openDisk(path, whileWritten<OpenDiskOptions>({ readOnly: true, locks: 'share', log }));
    expect(disk.size()).toBe(SIZE);
    disk.close();
    expect(said).toEqual([expect.stringContaining('is read beside its writer')]);
  });

  test('is taken again by what reads the header alone', () => {
    expect(inspectDisk(path, whileWritten<InspectOptions>({ locks: 'share' })).virtualSize).toBe(SIZE);
  });

  test('is the only one where nobody writes, and damage that stays is told', () => {
    expect(() => openDisk(path, { readOnly: true })).toThrow(path);
    expect(() => openDisk(path, { readOnly: true, locks: 'share' })).toThrow(path);
  });
});

function messageOf(action: () => unknown): string {
  try {
    action();
  } catch (error) {
    return (error as Error).message;
  }
  return 'none';
}

describe.each(FORMATS.map((format) => ({ name: format.name, format })))('a $name image beside a writer', ({
  format,
}) => {
  const states = grown(format);

  test('shows a place that was taken since the image was opened', () => {
    const file = new MemoryHostFile(states.before);
    const plain = openImage(format, readOnlyView(file), { readOnly: true });
    const image = beside(format, readOnlyView(file));
    file.write(states.after, 0, states.after.length, hostOffset(0));
    expect(valueAt(image, NEW_AT)).toBe(2);
    expect(valueAt(image, OLD_AT)).toBe(1);
    // what the image looks like to who opens it once: a file that is shorter than it is now
    expect(messageOf(() => valueAt(plain, NEW_AT))).not.toBe('none');
  });

  test('waits for bytes that come after their entry', () => {
    const file = new MemoryHostFile(states.before);
    let headersLeft = Number.POSITIVE_INFINITY;
    const growing = new FaultyHostFile(readOnlyView(file), (operation, _count, offset) => {
      if (operation === 'read' && offset === 0 && --headersLeft === 0)
        file.write(states.after, 0, states.after.length, hostOffset(0));
      return null;
    });
    const image = beside(format, growing);
    file.write(states.after, 0, states.before.length, hostOffset(0));
    headersLeft = 5;
    expect(valueAt(image, NEW_AT)).toBe(2);
    expect(headersLeft).toBeLessThan(1);
  });

  test('fails as one that nobody writes to if they never come', () => {
    const cut = states.after.slice(0, states.before.length);
    const wanted = messageOf(() =>
      valueAt(openImage(format, new MemoryHostFile(cut, '/memory', true), { readOnly: true }), NEW_AT),
    );
    expect(wanted).toMatch(/run imgfuse check|beyond/);
    const image = beside(format, new MemoryHostFile(cut, '/memory', true));
    expect(messageOf(() => valueAt(image, NEW_AT))).toBe(wanted);
    expect(messageOf(() => image.map(guestOffset(NEW_AT), BLOCK))).toBe(wanted);
    expect(valueAt(image, OLD_AT)).toBe(1);
  });

  test('keeps what it has read of the tables until somebody notes that the file has changed, in every thread', () => {
    const file = new MemoryHostFile(states.before);
    const view = readOnlyView(file);
    const image = beside(format, view);
    const shared = image.share();
    const more = { slot: 0, backing: null, extents: [], log: () => undefined };
    const other = new ImageBesideWriter(format, format.attach(view, shared, more), shared.rounds!);
    expect([valueAt(image, NEW_AT), valueAt(other, NEW_AT)]).toEqual([0, 0]);
    file.write(states.after, 0, states.after.length, hostOffset(0));
    expect([valueAt(image, NEW_AT), valueAt(other, NEW_AT)]).toEqual([0, 0]);
    expect(image.noteChanges()).toBe(true);
    expect([valueAt(image, NEW_AT), valueAt(other, NEW_AT)]).toEqual([2, 2]);
    expect(image.virtualSize()).toBe(other.virtualSize());
  });

  test('keeps its own size and content when the writer makes another disk of it', () => {
    const file = new MemoryHostFile(states.before);
    const image = beside(format, readOnlyView(file));
    const size = image.virtualSize();
    const smaller = createMemoryImage(format, SIZE / 4, SMALL[format.name] ?? {});
    expect(valueAt(image, OLD_AT)).toBe(1);
    file.write(smaller.bytes(), 0, smaller.size(), hostOffset(0));
    image.noteChanges();
    image.map(guestOffset(size - BLOCK), BLOCK);
    expect(image.virtualSize()).toBe(size);
    file.write(new Uint8Array(512), 0, 512, hostOffset(0));
    image.noteChanges();
    expect(image.details().virtualSize).toBe(size);
  });
});

describe('a disk of files', () => {
  let folder: string;
  const disks: VirtualDisk[] = [];
  beforeEach(() => {
    folder = makeTemporaryDirectory();
  });
  afterEach(() => {
    for (const disk of disks.splice(0)) disk.close();
    removeTemporaryDirectory(folder);
  });

  function open(path: string, options: Partial<OpenDiskOptions> = {}): VirtualDisk {
    const disk = openDisk(path, { readOnly: true, locks: 'share', ...options });
    disks.push(disk);
    return disk;
  }

  /** As another program does it, which has no part in this disk. */
  function write(path: string, at: number, value: number, options: Partial<OpenDiskOptions> = {}): void {
    const disk = openDisk(path, { readOnly: false, locks: 'none', ...options });
    disk.write(Buffer.alloc(BLOCK, value), 0, BLOCK, guestOffset(at));
    disk.close();
  }

  function create(name: string, format: string): string {
    const path = join(folder, name);
    createDisk(path, format, { size: SIZE, options: new Map() });
    return path;
  }

  test('what is damaged for good is looked for once as long as no file changes', () => {
    const path = create('disk', 'qcow2');
    write(path, OLD_AT, 1);
    const before = statSync(path).size;
    write(path, NEW_AT, 2);
    const whole = readFileSync(path);
    const descriptor = openSync(path, 'r+');
    try {
      ftruncateSync(descriptor, before);
      const disk = open(path);
      const first = messageOf(() => valueAt(disk, NEW_AT));
      expect(first).toContain('run imgfuse check');
      const start = performance.now();
      for (let count = 0; count < 100; count++) expect(messageOf(() => valueAt(disk, NEW_AT))).toBe(first);
      // a single search takes a quarter of a second
      expect(performance.now() - start).toBeLessThan(5000);
      writeSync(descriptor, whole, before, whole.length - before, before);
      expect(valueAt(disk, NEW_AT)).toBe(2);
    } finally {
      closeSync(descriptor);
    }
  });

  test.each(
    FORMATS.filter(({ name }) => name !== 'parallels').map(({ name }) => name),
  )('a %s image below an overlay may have the writer, and the overlay another one', (format) => {
    const base = create('base', format);
    write(base, OLD_AT, 1);
    const top = join(folder, 'top');
    createDisk(top, 'qcow2', { options: new Map(), backing: 'base', backingFormat: format });
    const disk = open(top);
    const overlaid = open(join(folder, 'own'), {
      readOnly: false,
      locks: 'take',
      locksBelow: 'share',
      overlaid: { image: top, isTemporary: false },
    });
    write(base, NEW_AT, 2);
    expect([valueAt(disk, NEW_AT), valueAt(overlaid, NEW_AT)]).toEqual([2, 2]);
    write(top, 2 * NEW_AT, 3);
    expect([disk.noteChanges(), overlaid.noteChanges()]).toEqual([true, true]);
    expect([valueAt(disk, 2 * NEW_AT), valueAt(overlaid, 2 * NEW_AT)]).toEqual([3, 3]);
  });

  test.each([
    ['qcow2', 'luks'],
    ['qcow', 'aes'],
  ])('a %s image encrypted with %s asks for its password once, and shows every thread what the first has seen', (format, encryption) => {
    const path = join(folder, 'disk');
    const password = () => new TextEncoder().encode('geheim');
    const time = encryption === 'luks' ? { 'encrypt.iter-time': '10' } : {};
    createDisk(path, format, {
      size: SIZE,
      options: new Map(Object.entries({ 'encrypt.format': encryption, ...time })),
      password,
    });
    write(path, OLD_AT, 1, { password });
    let asked = 0;
    const disk = open(path, {
      password: () => {
        asked++;
        return password();
      },
      slots: 2,
    });
    const other = attachDisk(disk.share(), 1);
    write(path, NEW_AT, 2, { password });
    expect([valueAt(disk, NEW_AT), valueAt(other, NEW_AT), valueAt(other, OLD_AT)]).toEqual([2, 2, 1]);
    expect(asked).toBe(1);
  });

  test('a snapshot is found again, and one that the writer has deleted is not shown as something else', (context) => {
    requireOrSkip(context, hasQemu, 'qemu-img and qemu-io');
    const path = create('disk.qcow2', 'qcow2');
    qemuIo(path, 'qcow2', 'write -P 1 0 64k');
    qemuImg('snapshot', '-c', 'kept', path);
    qemuImg('snapshot', '-c', 'deleted', path);
    const disk = open(path, { snapshots: true });
    const [kept, deleted] = disk.snapshots().map((_, position) => disk.openSnapshot(position));
    qemuIo(path, 'qcow2', 'write -P 2 0 64k', `write -P 2 ${NEW_AT} 64k`);
    qemuImg('snapshot', '-d', 'deleted', path);
    expect([valueAt(disk, NEW_AT), valueAt(kept!, OLD_AT)]).toEqual([2, 1]);
    expect(messageOf(() => valueAt(deleted!, OLD_AT))).toMatch(/the snapshot "deleted" is not in the image any more/);
    expect(disk.snapshots().map(({ name }) => name)).toEqual(['kept', 'deleted']);
  });

  test('a change is noted, and then no other before there is one', async () => {
    const path = create('disk', 'qcow2');
    write(path, OLD_AT, 1);
    const disk = open(path);
    // what changed a moment ago may change again without a trace
    await delay(50);
    disk.noteChanges();
    expect(disk.noteChanges()).toBe(false);
    expect(valueAt(disk, NEW_AT)).toBe(0);
    write(path, NEW_AT, 2);
    expect(disk.noteChanges()).toBe(true);
    expect(valueAt(disk, NEW_AT)).toBe(2);
    await delay(50);
    disk.noteChanges();
    expect(disk.noteChanges()).toBe(false);
  });

  test('an image that nobody else can write to is read as ever', () => {
    const path = create('disk', 'qed');
    write(path, OLD_AT, 1);
    const disk = open(path, { locks: 'take' });
    expect(disk.noteChanges()).toBe(false);
    writeFileSync(join(folder, 'other'), '');
    expect(disk.share().image.rounds).toBeUndefined();
  });
});
