// The look before a write, at the metadata of snapshots and bitmaps that QEMU has made: an entry or a count that has gone wrong
// while the image is open never lets guest data land there. The tables of the active layer are in hostile/qcow2-corruptions.

import { beforeEach, describe, expect, test } from 'vitest';
import { guestOffset, hostCluster } from '../../src/bytes/offsets.ts';
import { ImgfuseError } from '../../src/errors/index.ts';
import { FreeClusters, type FreeClustersState } from '../../src/format/mapped/free-clusters.ts';
import type { HostFile } from '../../src/host/host-file.ts';
import { COPIED, get32, get64, OFFSET_MASK, placesOf, put64 } from '../support/qcow2-bytes.ts';
import { Qcow2Session } from '../support/qcow2-session.ts';
import { hasQemu, qemuImg, qemuIo, tryQemu } from '../support/qemu.ts';
import { requireOrSkip } from '../support/requirements.ts';
import { makeTemporaryDirectory, removeTemporaryDirectory } from '../support/temporary.ts';

const CLUSTER = 4096;
const SIZE = 64 * CLUSTER;

const snapshotTable = (file: HostFile): number => Number(get64(file, 64));
const inactiveL1 = (file: HostFile): number => Number(get64(file, snapshotTable(file)));
const inactiveL2 = (file: HostFile): number => Number(get64(file, inactiveL1(file)) & OFFSET_MASK);

/** Of the directory, from the header extension. */
function bitmapDirectory(file: HostFile): number {
  let at = get32(file, 100);
  while (get32(file, at) !== 0x23852875) {
    expect(get32(file, at)).not.toBe(0);
    at += 8 + Math.ceil(get32(file, at + 4) / 8) * 8;
  }
  return Number(get64(file, at + 8 + 16));
}

let folder: string;
let session: Qcow2Session;
beforeEach((context) => {
  requireOrSkip(context, hasQemu, 'qemu-img and qemu-io');
  folder = makeTemporaryDirectory();
  session = new Qcow2Session(folder, {
    options: `cluster_size=${CLUSTER}`,
    size: SIZE,
    commands: ['write -P 7 0 32k'],
    prepare: (path) => {
      qemuImg('snapshot', '-c', 'one', path);
      // the active layer gets an L2 table of its own
      qemuIo(path, 'qcow2', 'write -P 8 0 4k');
      qemuImg('bitmap', '--add', path, 'changes');
    },
  });
  return () => removeTemporaryDirectory(folder);
});

describe.each([
  { kind: 'inactive L2 table', find: inactiveL2 },
  { kind: 'inactive L1 table', find: inactiveL1 },
  { kind: 'snapshot table', find: snapshotTable },
  { kind: 'bitmap', find: bitmapDirectory },
])('guest data never goes to the $kind', ({ kind, find }) => {
  test('when an L2 entry leads there', () => {
    const { file } = session;
    const { l2 } = placesOf(file);
    expect(find(file)).not.toBe(l2);
    put64(file, l2, COPIED | BigInt(find(file)));
    expectRefused(find(file), `guest data would go to 0x${find(file).toString(16)}, where the ${kind} is`, 0);
  });

  test('when its cluster is taken for free', () => {
    const { file, image } = session;
    const { free } = image.share().state as { readonly free: FreeClustersState };
    new FreeClusters(free).markFree(hostCluster(find(file) / CLUSTER), 1);
    const sentence = `the cluster at 0x${find(file).toString(16)} counts as free, but the ${kind} is there`;
    expectRefused(find(file), sentence, 40 * CLUSTER);
  });
});

/** A write at `guest` is refused with `sentence`; what lies at `host` stays, the image is corrupt and read-only from then on. */
function expectRefused(host: number, sentence: string, guest: number): void {
  const { file, image, path } = session;
  const before = Buffer.from(file.bytes().subarray(host, host + CLUSTER));
  let caught: unknown;
  try {
    image.write(new Uint8Array(512).fill(99), 0, 512, guestOffset(guest));
  } catch (error) {
    caught = error;
  }
  expect(caught).toBeInstanceOf(ImgfuseError);
  expect(caught).toMatchObject({ kind: 'corrupt', context: { offset: host } });
  expect((caught as Error).message).toContain(sentence);
  expect((caught as Error).message).toContain('the image is read-only from now on; unmount it and run imgfuse check');
  expect(get64(file, 72) & 2n).toBe(2n);
  expect(() => image.write(new Uint8Array(512), 0, 512, guestOffset(8 * CLUSTER))).toThrow(/was turned read-only/);
  expect(Buffer.compare(file.bytes().subarray(host, host + CLUSTER), before)).toBe(0);
  session.save();
  expect(tryQemu('qemu-io', '-f', 'qcow2', '-c', 'write 0 512', path).output).toMatch(/corrupt/i);
  // and the snapshot is what it was
  const seen = session.seenByQemu(SIZE, 'one');
  expect(seen.subarray(0, 8 * CLUSTER).every((byte) => byte === 7)).toBe(true);
  expect(seen.subarray(8 * CLUSTER).every((byte) => byte === 0)).toBe(true);
}
