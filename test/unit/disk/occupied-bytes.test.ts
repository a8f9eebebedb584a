// What a disk shows as its blocks: never none where a byte may be data, because tar and others skip a file without blocks.

import { expect, test } from 'vitest';
import { guestOffset } from '../../../src/bytes/offsets.ts';
import { VirtualDisk } from '../../../src/disk/virtual-disk.ts';
import type { WritableFormat, WritableImage } from '../../../src/format/image-format.ts';
import { qcow2 } from '../../../src/format/qcow2/index.ts';
import { qed } from '../../../src/format/qed/index.ts';
import { raw } from '../../../src/format/raw/index.ts';
import { vdi } from '../../../src/format/vdi/index.ts';
import { vhdx } from '../../../src/format/vhdx/index.ts';
import { vmdk } from '../../../src/format/vmdk/index.ts';
import { vpc } from '../../../src/format/vpc/index.ts';
import { MemoryHostFile } from '../../support/memory-file.ts';
import { createMemoryImage, openImage } from '../../support/memory-images.ts';
import { plainParallels } from '../../support/plain-parallels.ts';
import { CountingHostFile } from '../../support/wrapping-files.ts';

const MIB = 1024 * 1024;
const DATA = new Uint8Array(MIB).fill(7);

/** A file whose host counts no blocks, as some network file systems do. */
class UncountedFile extends CountingHostFile {
  override allocatedBytes(): number {
    return 0;
  }
}

class DeviceFile extends UncountedFile {
  override get isDevice(): boolean {
    return true;
  }
}

/** Blocks of less than a MiB, in formats whose default is more. */
function optionsOf(format: WritableFormat): Readonly<Record<string, string>> {
  if (format === vhdx) return { block_size: '1M' };
  if (format === plainParallels) return { cluster_size: '64k' };
  return format === vdi || format === vpc ? { block_size: '64k' } : {};
}

function imageWithData(format: WritableFormat, options = optionsOf(format)): WritableImage {
  const image = openImage(format, createMemoryImage(format, 8 * MIB, options));
  image.write(DATA, 0, DATA.length, guestOffset(3 * MIB));
  return image;
}

function overlay(format: WritableFormat, backing: WritableImage, size: number, readOnly = false): VirtualDisk {
  const file = createMemoryImage(format, size, optionsOf(format), '/base');
  const shown = readOnly ? new MemoryHostFile(file.bytes(), '/memory', true) : file;
  return new VirtualDisk(openImage(format, shown, { backing, readOnly }));
}

for (const top of [qed, qcow2, vdi, vmdk, vpc]) {
  for (const base of [raw, qed, qcow2, vdi, vmdk, vpc, vhdx, plainParallels]) {
    for (const readOnly of [false, true]) {
      const title = `an empty ${top.name} overlay, ${readOnly ? 'read-only' : 'writable'}, shows the ${base.name} data below`;
      test(title, () => {
        const disk = overlay(top, imageWithData(base), 8 * MIB, readOnly);
        expect(disk.allocatedBytes()).toBe(0);
        expect(disk.occupiedBytes()).toBeGreaterThanOrEqual(MIB);
        expect(disk.occupiedBytes()).toBeLessThan(2 * MIB);
      });
    }
  }
  test(`${top.name}: the data of three images adds up, and never to more than the disk has`, () => {
    const middle = openImage(top, createMemoryImage(top, 8 * MIB, optionsOf(top), '/base'), {
      backing: imageWithData(raw),
    });
    middle.write(DATA, 0, DATA.length, guestOffset(0));
    const disk = overlay(top, middle, 8 * MIB);
    disk.write(DATA, 0, DATA.length, guestOffset(6 * MIB));
    expect(disk.occupiedBytes()).toBeGreaterThanOrEqual(3 * MIB);
    expect(overlay(top, middle, MIB).occupiedBytes()).toBe(MIB);
  });
}

test('an overlay over a base without data shows no blocks', () => {
  const base = openImage(raw, new MemoryHostFile(new Uint8Array(0), '/base'));
  base.resize(8 * MIB);
  expect(overlay(qcow2, base, 8 * MIB).occupiedBytes()).toBe(0);
});

test('a raw image on a device, or with data that its host does not count, counts in full', () => {
  const inner = new MemoryHostFile(new Uint8Array(0));
  inner.truncate(8 * MIB);
  const disk = (file: CountingHostFile) => new VirtualDisk(openImage(raw, file));
  expect(disk(new UncountedFile(inner)).occupiedBytes()).toBe(0);
  expect(disk(new DeviceFile(inner)).occupiedBytes()).toBe(8 * MIB);
  inner.write(DATA, 0, 1, 5 as never);
  expect(disk(new UncountedFile(inner)).occupiedBytes()).toBe(8 * MIB);
});

test('data in an external file counts, below too', () => {
  const dataFile = new MemoryHostFile(new Uint8Array(0), '/data');
  const file = createMemoryImage(qcow2, 8 * MIB, { data_file: 'data' }, undefined, { dataFile });
  const base = openImage(qcow2, file, { dataFile });
  base.write(DATA, 0, DATA.length, guestOffset(0));
  expect(new VirtualDisk(base).occupiedBytes()).toBe(MIB);
  expect(overlay(qcow2, base, 8 * MIB).occupiedBytes()).toBeGreaterThanOrEqual(MIB);
});

test('asking reads nothing, however large the base is', () => {
  const counting = new CountingHostFile(createMemoryImage(qcow2, 8 * MIB));
  const base = openImage(qcow2, counting);
  base.write(DATA, 0, DATA.length, guestOffset(0));
  base.flush();
  const disk = overlay(qcow2, base, 8 * MIB);
  counting.reset();
  expect(disk.occupiedBytes()).toBeGreaterThanOrEqual(MIB);
  expect(counting.calls.read).toBe(0);
});
