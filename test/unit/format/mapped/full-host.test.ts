// A host that lets the image file grow no further, or has no space left, while clusters of the image are free or have just
// been freed: they are used, before the guest is told that nothing fits.

import { describe, expect, test } from 'vitest';
import { guestOffset, type HostOffset } from '../../../../src/bytes/offsets.ts';
import { ERRNO, ImgfuseError } from '../../../../src/errors/index.ts';
import type { WritableFormat, WritableImage } from '../../../../src/format/image-format.ts';
import { qcow2 } from '../../../../src/format/qcow2/index.ts';
import { qed } from '../../../../src/format/qed/index.ts';
import { raw } from '../../../../src/format/raw/index.ts';
import { vdi } from '../../../../src/format/vdi/index.ts';
import { vmdk } from '../../../../src/format/vmdk/index.ts';
import { vpc } from '../../../../src/format/vpc/index.ts';
import { MemoryHostFile } from '../../../support/memory-file.ts';
import { checkImage, createMemoryImage, openImage } from '../../../support/memory-images.ts';
import { plainParallels } from '../../../support/plain-parallels.ts';

const MIB = 2 ** 20;
const CLUSTER = 65536;
const CLUSTERS = MIB / CLUSTER;

/** Grows to `limit` bytes and takes `space` bytes of its host, as ulimit -f and a full file system have it. */
class LimitedFile extends MemoryHostFile {
  limit = Number.POSITIVE_INFINITY;
  space = Number.POSITIVE_INFINITY;

  override write(source: Uint8Array, sourceOffset: number, length: number, offset: HostOffset): void {
    const inside = Math.max(0, Math.min(length, this.limit - offset));
    for (let done = 0; done < inside; ) {
      const part = Math.min(4096 - ((offset + done) % 4096), inside - done);
      const at = (offset + done) as HostOffset;
      const isHole = at >= this.size() || super.seekData(at) >= at + part;
      if (isHole && this.allocatedBytes() + 4096 > this.space) throw refusal(this, 'no-space', ERRNO.ENOSPC, done);
      super.write(source, sourceOffset + done, part, at);
      done += part;
    }
    if (inside < length) throw refusal(this, 'limit', ERRNO.EFBIG, inside);
  }

  override truncate(length: number): void {
    if (length > Math.max(this.limit, this.size())) throw refusal(this, 'limit', ERRNO.EFBIG, 0);
    super.truncate(length);
  }

  override allocateRange(offset: HostOffset, length: number): void {
    if (offset + length > Math.max(this.limit, this.size())) throw refusal(this, 'limit', ERRNO.EFBIG, 0);
    super.allocateRange(offset, length);
  }
}

function refusal(file: LimitedFile, kind: 'limit' | 'no-space', errno: number, transferred: number): ImgfuseError {
  return new ImgfuseError(kind, `${file.path}: errno ${errno}`, { path: file.path, errno, transferred });
}

function write(image: WritableImage, cluster: number, count: number, value: number): void {
  const bytes = Buffer.alloc(count * CLUSTER, value);
  image.write(bytes, 0, bytes.length, guestOffset(cluster * CLUSTER));
}

/** The byte that every byte of these clusters has. */
function byteOf(image: WritableImage, cluster: number, count: number): number {
  const bytes = Buffer.alloc(count * CLUSTER);
  image.read(bytes, 0, bytes.length, guestOffset(cluster * CLUSTER));
  expect(new Set(bytes).size).toBe(1);
  return bytes[0]!;
}

function errnoOf(action: () => void): number | undefined {
  try {
    action();
  } catch (error) {
    if (error instanceof ImgfuseError) return error.context.errno;
    throw error;
  }
  return 0;
}

interface Opened {
  readonly file: LimitedFile;
  readonly image: WritableImage;
}

/** Those by which a cluster is 64 KiB. */
function optionsOf(format: WritableFormat): Readonly<Record<string, string>> {
  if (format === plainParallels) return { cluster_size: '64k' };
  // without entries of zeros a discard over a parent frees nothing
  if (format === vmdk) return { zeroed_grain: 'on' };
  return format === vdi || format === vpc ? { block_size: '64k' } : {};
}

/** A disk whose first MiB has data, on a host that is full. @param below bytes of a backing file */
function filled(format: WritableFormat, how: 'limit' | 'space', below?: Uint8Array): Opened {
  const name = below === undefined ? undefined : '/base';
  const backing = below === undefined ? null : openImage(raw, new MemoryHostFile(below, '/base'));
  const file = new LimitedFile(createMemoryImage(format, 2 ** 32, optionsOf(format), name).bytes());
  let image = openImage(format, file, { backing });
  write(image, 0, CLUSTERS, 1);
  image.flush();
  image.makeClean();
  if (format === vpc) {
    // it gives its room behind the last block back when it is closed
    image.close();
    image = openImage(format, file, { backing });
  }
  if (how === 'limit') file.limit = file.size();
  else file.space = file.allocatedBytes();
  return { file, image };
}

/** Closes the image on a host with space again; no leak and no corruption may be left. */
function closeClean(format: WritableFormat, { file, image }: Opened): void {
  file.limit = Number.POSITIVE_INFINITY;
  file.space = Number.POSITIVE_INFINITY;
  image.close();
  const said: string[] = [];
  expect(checkImage(format, file, { repair: 'none', log: (sentence) => said.push(sentence) })).toMatchObject({
    corruptions: 0,
    leaks: 0,
  });
  expect(said).toEqual([]);
}

const FORMATS = [qed, qcow2, vdi, vpc, vmdk, plainParallels].map((format: WritableFormat) => ({ format }));

describe.each(FORMATS)('$format.name', ({ format }) => {
  // a VHD keeps its blocks over a parent, because an unused entry would show that; beside a block there is its bitmap
  const freesOverBacking = format.can.backing && format !== vpc;
  const stride = format === vpc ? CLUSTER + 4096 : CLUSTER;

  describe.each(['limit', 'space'] as const)('on a host that is full (%s)', (how) => {
    test('writes where it has just discarded', () => {
      const opened = filled(format, how);
      const { image } = opened;
      image.discard(guestOffset(0), MIB);
      write(image, 0, CLUSTERS, 2);
      expect(byteOf(image, 0, CLUSTERS)).toBe(2);
      expect(image.failure()).toBe(null);
      closeClean(format, opened);
    });

    test('answers the errno of the host where nothing is free, and works on', () => {
      const opened = filled(format, how);
      const { file, image } = opened;
      expect(errnoOf(() => write(image, CLUSTERS, CLUSTERS, 2))).toBe(how === 'limit' ? ERRNO.EFBIG : ERRNO.ENOSPC);
      expect(image.failure()).toBe(null);
      expect(byteOf(image, 0, CLUSTERS)).toBe(1);
      image.flush();
      file.limit = Number.POSITIVE_INFINITY;
      file.space = Number.POSITIVE_INFINITY;
      write(image, CLUSTERS, CLUSTERS, 2);
      expect(byteOf(image, CLUSTERS, CLUSTERS)).toBe(2);
      closeClean(format, opened);
    });

    test('finds room for a new table, too, among what was discarded', () => {
      const opened = filled(format, how);
      const { image } = opened;
      image.discard(guestOffset(0), MIB);
      // another L2 table maps the third GiB
      const far = (3 * 2 ** 30) / CLUSTER;
      write(image, far, 8, 2);
      expect(byteOf(image, far, 8)).toBe(2);
      expect(byteOf(image, 0, CLUSTERS)).toBe(0);
      expect(image.failure()).toBe(null);
      closeClean(format, opened);
    });
  });

  test.each(
    freesOverBacking ? [CLUSTERS] : [],
  )('writes over backing data where it has just discarded %i clusters, when the file may not grow', (count) => {
    const opened = filled(format, 'limit', Buffer.alloc(2 * MIB, 9));
    const { image } = opened;
    image.discard(guestOffset(0), MIB);
    image.write(Buffer.alloc(1000, 2), 0, 1000, guestOffset(MIB + 500));
    image.flush();
    const bytes = Buffer.alloc(2000);
    image.read(bytes, 0, 2000, guestOffset(MIB));
    expect(bytes.equals(Buffer.concat([Buffer.alloc(500, 9), Buffer.alloc(1000, 2), Buffer.alloc(500, 9)]))).toBe(true);
    expect(byteOf(image, 0, count)).toBe(0);
    closeClean(format, opened);
  });

  test.each(
    freesOverBacking ? [true, false] : [false],
  )('uses what was discarded before the image was idle, with a backing file: %s', (hasBacking) => {
    const opened = filled(format, 'limit', hasBacking ? Buffer.alloc(2 * MIB, 9) : undefined);
    const { image } = opened;
    image.discard(guestOffset(0), MIB);
    // the end of the last writable handle
    image.makeClean();
    write(image, 2, 1, 3);
    image.makeClean();
    write(image, 1000, CLUSTERS - 1, 2);
    expect([byteOf(image, 1000, CLUSTERS - 1), byteOf(image, 0, 2), byteOf(image, 2, 1)]).toEqual([2, 0, 3]);
    expect(byteOf(image, 3, CLUSTERS - 3)).toBe(0);
    expect(image.failure()).toBe(null);
    closeClean(format, opened);
  });

  test('takes what room there is when a write wants more, cluster by cluster', () => {
    const opened = filled(format, 'limit');
    const { file, image } = opened;
    file.limit = file.size() + 5 * stride;
    expect(errnoOf(() => write(image, CLUSTERS, CLUSTERS, 2))).toBe(ERRNO.EFBIG);
    write(image, CLUSTERS, 5, 3);
    expect(byteOf(image, CLUSTERS, 5)).toBe(3);
    closeClean(format, opened);
  });

  test('preallocates in what was discarded', () => {
    const opened = filled(format, 'limit');
    const { image } = opened;
    image.discard(guestOffset(0), MIB);
    image.preallocate(guestOffset(0), MIB);
    expect(byteOf(image, 0, CLUSTERS)).toBe(0);
    write(image, 0, CLUSTERS, 4);
    expect(byteOf(image, 0, CLUSTERS)).toBe(4);
    closeClean(format, opened);
  });
});
