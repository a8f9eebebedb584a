// The half of the contract that an image of every format keeps, those that are only read included: what a reader sees, and
// that looking changes nothing. describeVirtualDisk runs it for formats that can be written.

import { describe, expect, test } from 'vitest';
import { guestOffset, hostOffset } from '../../src/bytes/offsets.ts';
import { steadyMs } from '../../src/concurrency/clock.ts';
import { VirtualDisk } from '../../src/disk/virtual-disk.ts';
import { ERRNO, errnoOf } from '../../src/errors/index.ts';
import type { ImageFormat } from '../../src/format/image-format.ts';
import type { HostFile } from '../../src/host/host-file.ts';
import { MemoryHostFile } from '../support/memory-file.ts';
import { openImage } from '../support/memory-images.ts';
import { seededRandom } from '../support/random.ts';
import { RecordingHostFile, readOnlyView } from '../support/wrapping-files.ts';

/** Parts of the disk that lie in other files than the image file, by their numbers in hexadecimal digits; of 4096 bytes. */
type Bands = ReadonlyMap<string, Uint8Array>;

function bandsFile(bands: Bands): MemoryHostFile {
  const file = new MemoryHostFile();
  for (const [name, bytes] of bands) file.write(bytes, 0, bytes.length, hostOffset(Number.parseInt(name, 16) * 4096));
  return file;
}

/** An image of a format that is only read. */
export interface ReadVariant {
  readonly name: string;
  readonly format: ImageFormat;
  /** data without a host offset is compressed */
  readonly isCompressed?: true;
  /** bytes of the image file, those of the file that has its data if that is another one, and what its disk must read as */
  readonly create: () => {
    readonly image: Uint8Array;
    readonly extent?: Uint8Array;
    readonly bands?: Bands;
    readonly content: Uint8Array;
  };
  /** false: what the image stores at a place is not always the guest's bytes. Default true */
  readonly showsPlaces?: boolean;
}

/** An open disk, and what it must read as. */
export interface ReadSubject {
  readonly disk: VirtualDisk;
  readonly content: Uint8Array;
  /** the file that the extents with data lead to; null if what it stores is not the guest's bytes */
  readonly dataFile: HostFile | null;
  /** data without a host offset is compressed */
  readonly isCompressed?: boolean;
}

export function describeReadableDisk(variant: ReadVariant): void {
  const { format, name } = variant;
  describe(name, () => {
    const files = () => {
      const { image, extent, bands, content } = variant.create();
      const dataFile = bands ? bandsFile(bands) : extent && new MemoryHostFile(extent, '/extent', true);
      return { file: new MemoryHostFile(image, '/memory', true), dataFile, content };
    };

    describeReading(() => {
      const { file, dataFile, content } = files();
      const disk = new VirtualDisk(openImage(format, file, { readOnly: true, dataFile }));
      const shown = variant.showsPlaces === false ? null : (dataFile ?? file);
      return { disk, content, dataFile: shown, isCompressed: variant.isCompressed === true };
    });

    test('another thread reads the same', () => {
      const { file, dataFile, content } = files();
      const opened = openImage(format, file, { readOnly: true, slots: 2, dataFile });
      const state = structuredClone(opened.share());
      const extents = dataFile === undefined ? [] : [dataFile];
      const attached = format.attach(file, state, { slot: 1, backing: null, extents, log: () => undefined });
      expectContent(new VirtualDisk(attached), content);
    });

    test('nothing writes to its file, whatever is asked of it, and changes are refused with EROFS', () => {
      const { file, dataFile, content } = files();
      const recording = new RecordingHostFile(readOnlyView(file));
      const recordingData = dataFile === undefined ? undefined : new RecordingHostFile(dataFile);
      const disk = new VirtualDisk(openImage(format, recording, { readOnly: true, dataFile: recordingData }));
      expectContent(disk, content);
      const changes = [
        () => disk.write(new Uint8Array(9), 0, 9, guestOffset(5)),
        () => disk.discard(0, 100_000),
        () => disk.writeZeroes(0, 100_000),
        () => disk.preallocate(0, 100_000),
        () => disk.resize(content.length * 2),
        () => disk.growTo(content.length * 2),
      ];
      for (const change of changes) expect(errnoFrom(change)).toBe(ERRNO.EROFS);
      disk.flush();
      disk.maintain(steadyMs() + 60_000);
      disk.makeClean();
      disk.close();
      expect([...recording.log, ...(recordingData?.log ?? [])]).toEqual([]);
    });
  });
}

/** @param make a disk with data and with zeros, a new one each time */
export function describeReading(make: () => ReadSubject): void {
  test('a read that crosses the end is short, one behind it is empty, and no byte beyond the count is touched', () => {
    const { disk, content } = make();
    const target = new Uint8Array(1000).fill(0xee);
    expect(disk.read(target, 10, 900, guestOffset(content.length - 100))).toBe(100);
    expect(target.subarray(0, 10).every((byte) => byte === 0xee)).toBe(true);
    expect(target.subarray(110).every((byte) => byte === 0xee)).toBe(true);
    expect(disk.read(target, 0, 1000, guestOffset(content.length))).toBe(0);
    expect(disk.read(target, 0, 1000, guestOffset(content.length + 4096))).toBe(0);
    expect(disk.read(target, 0, 0, guestOffset(17))).toBe(0);
  });

  test('a read anywhere gets its bytes', () => {
    const { disk, content } = make();
    expectContent(disk, content);
    const random = seededRandom(7);
    for (let n = 0; n < 200; n++) {
      const at = Math.floor(random() * content.length);
      const length = Math.min(content.length - at, 1 + Math.floor(random() * (n % 2 === 0 ? 1500 : 70_000)));
      const target = new Uint8Array(length).fill(0xee);
      expect(disk.read(target, 0, length, guestOffset(at))).toBe(length);
      expect(Buffer.compare(target, content.subarray(at, at + length)), `${length} bytes at ${at}`).toBe(0);
    }
  });

  test('the extents cover the disk without gaps, and those of data lead to the bytes', () => {
    const { disk, content, dataFile, isCompressed } = make();
    const size = content.length;
    const target = new Uint8Array(size);
    for (let at = 0; at < size; ) {
      const extent = disk.extent(at);
      expect(extent.start).toBe(at);
      expect(extent.length).toBeGreaterThan(0);
      if (extent.depth === 0 && extent.status === 'data') {
        if (dataFile === null) expect(extent.hostOffset).toBe(undefined);
        else if (extent.hostOffset !== undefined || isCompressed !== true) {
          dataFile.read(target, 0, extent.length, extent.hostOffset as never);
          expect(Buffer.compare(target.subarray(0, extent.length), content.subarray(at, at + extent.length))).toBe(0);
        }
      } else if (extent.status !== 'data') {
        expect(content.subarray(at, at + extent.length).every((byte) => byte === 0)).toBe(true);
      }
      at += extent.length;
      expect(at).toBeLessThanOrEqual(size);
    }
  });

  test('the runs of data are those of the extents, whatever lies where', () => {
    const { disk, content } = make();
    const runs: { isData: boolean; start: number; end: number }[] = [];
    for (const { status, isHole, start, length } of disk.extents()) {
      const isData = status === 'data' && isHole !== true;
      const last = runs.at(-1);
      if (last?.isData === isData) last.end = start + length;
      else runs.push({ isData, start, end: start + length });
    }
    expect(runs.at(-1)?.end).toBe(content.length);
    for (const { isData, start, end } of runs) {
      expect([disk.seek(start, isData), disk.seek(start, !isData)]).toEqual([start, end]);
    }
  });
}

function expectContent(disk: VirtualDisk, content: Uint8Array): void {
  expect(disk.size()).toBe(content.length);
  const bytes = new Uint8Array(content.length).fill(0xee);
  expect(disk.read(bytes, 0, bytes.length, guestOffset(0))).toBe(bytes.length);
  const at = Buffer.compare(bytes, content) === 0 ? -1 : bytes.findIndex((byte, i) => byte !== content[i]);
  expect(at < 0 ? 'none' : `${at}: ${bytes[at]} instead of ${content[at]}`, 'first byte that differs').toBe('none');
}

function errnoFrom(action: () => void): number {
  try {
    action();
  } catch (error) {
    return errnoOf(error);
  }
  return 0;
}
