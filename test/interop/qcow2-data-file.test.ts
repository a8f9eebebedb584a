// qcow2 images with an external data file, with QEMU on the other side: what it makes is read and changed here, what is made
// here it reads; qemu-img check and compare judge, and a raw data file must be the disk itself at every close. A data file
// that is not raw is full of old bytes from the start, so that nothing may take a new place for zeros.

import { execFileSync } from 'node:child_process';
import { readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { guestOffset } from '../../src/bytes/offsets.ts';
import { mapDisk } from '../../src/cli/commands/map.ts';
import { steadyMs } from '../../src/concurrency/clock.ts';
import { checkDisk, createDisk, inspectDisk, openDisk, type VirtualDisk } from '../../src/disk/index.ts';
import { fingerprints, firstDifference, readAll, withDisk } from '../support/image-files.ts';
import { hasQemu, QemuHolder, qemuCheck, qemuImg, qemuIo, tryQemu } from '../support/qemu.ts';
import { seededRandom } from '../support/random.ts';
import { requireOrSkip } from '../support/requirements.ts';
import { sliceOf } from '../support/slices.ts';
import { makeTemporaryDirectory, removeTemporaryDirectory } from '../support/temporary.ts';

const SIZE = 1024 * 1024 + 3 * 512;
const RUNS = sliceOf('interop', 'qcow2');
const STEPS = 60;
const PASSWORD = 'geheim';
const SECRET = ['--object', `secret,id=s,data=${PASSWORD}`];

let folder = '';
let image = '';
let data = '';

beforeEach((context) => {
  requireOrSkip(context, hasQemu, 'qemu-img and qemu-io');
  folder = makeTemporaryDirectory();
  image = join(folder, 'disk.qcow2');
  data = join(folder, 'disk.data');
});
afterEach(() => {
  if (folder !== '') removeTemporaryDirectory(folder);
});

interface Variant {
  readonly name: string;
  readonly options: string;
  readonly isRaw?: boolean;
  readonly isEncrypted?: boolean;
  readonly hasBacking?: boolean;
}

const RAW = 'data_file_raw=on';
const EXTENDED = 'cluster_size=16k,extended_l2=on';
const VARIANTS: readonly Variant[] = [
  { name: '64 KiB', options: '' },
  { name: '512 bytes', options: 'cluster_size=512' },
  { name: '64 KiB, raw', options: RAW, isRaw: true },
  { name: '4 KiB, raw', options: `cluster_size=4k,${RAW}`, isRaw: true },
  { name: 'subclusters', options: EXTENDED },
  { name: 'subclusters, raw', options: `${EXTENDED},${RAW}`, isRaw: true },
  { name: '4 KiB over a backing file', options: 'cluster_size=4k', hasBacking: true },
  { name: 'subclusters over a backing file', options: EXTENDED, hasBacking: true },
  { name: '4 KiB with LUKS', options: 'cluster_size=4k,encrypt.format=luks', isEncrypted: true },
];

/** An image made by qemu-img. @returns what it reads as */
function make({ options, isRaw, isEncrypted, hasBacking }: Variant): Uint8Array {
  const all = [`data_file=${data}`, options, isEncrypted ? 'encrypt.key-secret=s,encrypt.iter-time=10' : ''];
  const o = all.filter((text) => text !== '').join(',');
  // qemu-img keeps a longer data file
  rmSync(data, { force: true });
  const content = new Uint8Array(SIZE);
  if (hasBacking === true) {
    content.forEach((_, i) => {
      content[i] = i % 200_000 < 90_000 ? 1 + ((i >> 10) % 250) : 0;
    });
    writeFileSync(join(folder, 'base.raw'), content);
    const base = join(folder, 'base.raw');
    qemuImg('create', '-q', '-f', 'qcow2', '-o', o, '-b', base, '-F', 'raw', image);
  } else {
    qemuImg('create', '-q', '-f', 'qcow2', ...SECRET, '-o', o, image, String(SIZE));
  }
  if (isRaw !== true) writeFileSync(data, new Uint8Array(statSync(data).size).fill(0xaa));
  return content;
}

function open(readOnly = false): VirtualDisk {
  return openDisk(image, { readOnly, password: () => new TextEncoder().encode(PASSWORD), tableCacheBytes: 8192 });
}

/** One random change of disk and model. @returns the model, which a resize replaces */
function step(disk: VirtualDisk, model: Uint8Array, random: () => number): Uint8Array {
  const at = Math.floor(random() * (random() < 0.5 ? 100_000 : model.length));
  const length = Math.min(model.length - at, 1 + Math.floor(random() * (random() < 0.7 ? 6_000 : 150_000)));
  const pick = random();
  if (length <= 0) return model;
  if (pick < 0.5) {
    const byte = 1 + Math.floor(random() * 255);
    model.fill(byte, at, at + length);
    disk.write(new Uint8Array(length).fill(byte), 0, length, guestOffset(at));
  } else if (pick < 0.8) {
    model.fill(0, at, at + length);
    if (random() < 0.5) disk.discard(at, length);
    else disk.writeZeroes(at, length);
  } else if (pick < 0.9) {
    disk.flush();
  } else if (pick < 0.94) {
    disk.maintain(steadyMs() + 1000);
  } else if (pick < 0.97) {
    disk.preallocate(at, length);
  } else {
    const resized = new Uint8Array(512 * Math.ceil((SIZE / 512) * (0.5 + random())));
    resized.set(model.subarray(0, resized.length));
    disk.resize(resized.length);
    return resized;
  }
  return model;
}

function expectEqual(disk: VirtualDisk, model: Uint8Array): void {
  expect(firstDifference(readAll(disk), model)).toBe('none');
}

/** What QEMU and the bytes of the data file say of a closed image. */
function judge({ isRaw, isEncrypted }: Variant, model: Uint8Array): void {
  const options = `driver=qcow2,file.filename=${image}${isEncrypted ? ',encrypt.key-secret=s' : ''}`;
  expect(tryQemu('qemu-img', 'check', ...SECRET, '--image-opts', options)).toMatchObject({ code: 0 });
  writeFileSync(join(folder, 'model.raw'), model);
  const wanted = `driver=raw,file.filename=${join(folder, 'model.raw')}`;
  expect(qemuImg('compare', '-q', ...SECRET, '--image-opts', wanted, options)).toBe('');
  const report = checkDisk(image, { repair: 'none', log: (finding) => expect(finding).toBe('') });
  expect(report.corruptions + report.leaks + report.checkErrors).toBe(0);
  const bytes = readFileSync(data);
  expect(bytes.length).toBeGreaterThanOrEqual(model.length);
  if (isRaw !== true) return;
  expect(firstDifference(bytes.subarray(0, model.length), model), 'the raw data file').toBe('none');
  // qemu-img makes its last cluster whole
  expect(bytes.subarray(model.length).every((byte) => byte === 0)).toBe(true);
}

describe.each(VARIANTS)('a data file, $name', (variant) => {
  test('random operations on an image made by qemu-img', { timeout: 300_000 }, () => {
    for (let run = 0; run < RUNS; run++) {
      const random = seededRandom(run * 1000 + Date.now());
      let model = make(variant);
      let disk = open();
      expectEqual(disk, model);
      for (let n = 0; n < STEPS; n++) {
        model = step(disk, model, random);
        expectEqual(disk, model);
        if (random() < 0.05) {
          disk.close();
          judge(variant, model);
          disk = open();
        }
      }
      disk.close();
      judge(variant, model);
      withDisk(image, { readOnly: true, password: () => new TextEncoder().encode(PASSWORD) }, (again) =>
        expectEqual(again, model),
      );
    }
  });
});

interface Place {
  readonly start: number;
  readonly length: number;
  readonly offset?: number;
}

/** Ranges that follow each other on the disk and in the file are one. */
function joined(entries: readonly Place[]): Place[] {
  const list: Place[] = [];
  for (const { start, length, offset } of entries) {
    const last = list.at(-1);
    const follows = last !== undefined && last.start + last.length === start;
    if (follows && last.offset! + last.length === offset)
      list[list.length - 1] = { ...last, length: last.length + length };
    else list.push({ start, length, offset: offset! });
  }
  return list;
}

describe('made by qemu-io', () => {
  test.each(['off', 'on'])('clusters of every kind are read and mapped, data_file_raw=%s', (raw) => {
    qemuImg('create', '-q', '-f', 'qcow2', '-o', `data_file=${data},data_file_raw=${raw},cluster_size=4k`, image, '1M');
    qemuIo(image, 'qcow2', 'write -P 1 0 4096', 'write -P 2 8192 512', 'write -P 3 20000 50000', 'write -z 24k 8k');
    qemuIo(image, 'qcow2', 'discard 0 4k', 'write -P 5 40k 512', 'write -z 100k 4k', 'discard 60k 4k');
    const wanted = JSON.parse(qemuImg('map', '--output=json', image)) as Record<string, unknown>[];
    const read = join(folder, 'read.raw');
    qemuImg('convert', '-f', 'qcow2', '-O', 'raw', image, read);
    withDisk(image, { readOnly: true }, (disk) => {
      expect(firstDifference(readAll(disk), readFileSync(read))).toBe('none');
      const data = [...mapDisk(disk)].filter((entry) => entry.data);
      // QEMU does not look for holes in clusters of a data file
      expect(joined(data)).toEqual(
        wanted.filter((entry) => entry['data']).map(({ start, length, offset }) => ({ start, length, offset })),
      );
      for (const { filename } of data) expect(filename).toBe(join(folder, 'disk.data'));
    });
    const report = checkDisk(image, { repair: 'none', log: (finding) => expect(finding).toBe('') });
    expect(report.corruptions + report.leaks).toBe(0);
  });
});

describe('made here', () => {
  const MIB = 1024 * 1024;

  function create(options: Record<string, string>): void {
    createDisk(image, 'qcow2', { size: MIB, options: new Map(Object.entries({ data_file: data, ...options })) });
  }

  test.each([
    {},
    { data_file_raw: 'on' },
    { preallocation: 'metadata' },
    { preallocation: 'falloc' },
    { preallocation: 'full', data_file_raw: 'on' },
    { extended_l2: 'on' },
    { extended_l2: 'on', preallocation: 'metadata' },
  ])('an image with %j is empty to QEMU, which writes what is read here', (options: Record<string, string>) => {
    create(options);
    qemuCheck(image, 'qcow2');
    expect(statSync(data).size).toBe(MIB);
    qemuIo(image, 'qcow2', 'read -P 0 0 1M', 'write -P 7 1000 70000');
    withDisk(image, { readOnly: false }, (disk) => {
      const wanted = new Uint8Array(MIB).fill(7, 1000, 71_000);
      expectEqual(disk, wanted);
      disk.write(new Uint8Array(500).fill(9), 0, 500, guestOffset(500_000));
    });
    qemuCheck(image, 'qcow2');
    qemuIo(image, 'qcow2', 'read -P 9 500000 500', 'read -P 7 1000 70000', 'read -P 0 71000 400000');
  });

  test('a data file that exists is refused, and nothing is left behind or changed', () => {
    writeFileSync(data, 'precious');
    const before = fingerprints(folder);
    expect(() => create({})).toThrow(/disk\.data exists already; it is not overwritten/);
    expect(fingerprints(folder)).toEqual(before);
  });

  test('an image that cannot be made leaves no data file behind', () => {
    const options = new Map(Object.entries({ data_file: data, cluster_size: '512', preallocation: 'metadata' }));
    expect(() => createDisk(image, 'qcow2', { size: 2 ** 50, options })).toThrow(/too large/);
    expect(fingerprints(folder)).toEqual({});
  });

  test('a relative name counts from the directory of the image', () => {
    create({ data_file: 'disk.data' });
    withDisk(image, { readOnly: false }, (disk) => disk.write(new Uint8Array(512).fill(1), 0, 512, guestOffset(0)));
    expect(readFileSync(data)[0]).toBe(1);
    expect(inspectDisk(image).specific['data-file']).toBe('disk.data');
  });
});

describe('what is refused', () => {
  /** The sentence of an open; no byte of any file has changed then. */
  function refusal(readOnly = false, allowBacking: string[] = []): string {
    const before = fingerprints(folder);
    let sentence = 'it was opened';
    try {
      openDisk(image, { readOnly, allowBacking }).close();
    } catch (error) {
      sentence = (error as Error).message;
    }
    expect(fingerprints(folder)).toEqual(before);
    return sentence;
  }

  test('a data file in another directory, unless it is allowed', () => {
    const elsewhere = makeTemporaryDirectory();
    try {
      const there = join(elsewhere, 'disk.data');
      qemuImg('create', '-q', '-f', 'qcow2', '-o', `data_file=${there}`, image, '1M');
      expect(refusal()).toContain(`its data file ${there} lies outside the image's own directory; add --allow-backing`);
      expect(refusal(true)).toContain('--allow-backing');
      expect(refusal(false, [elsewhere])).toBe('it was opened');
    } finally {
      removeTemporaryDirectory(elsewhere);
    }
  });

  test('a data file that is missing, or the image itself, or no file name', () => {
    const patch = (name: string): void => {
      const bytes = readFileSync(image);
      const at = bytes.indexOf('longenoughname');
      bytes.fill(0, at, at + 14);
      bytes.write(name, at);
      bytes.writeUInt32BE(name.length, at - 4);
      writeFileSync(image, bytes);
    };
    const named = join(folder, 'longenoughname');
    qemuImg('create', '-q', '-f', 'qcow2', '-o', `data_file=${named}`, image, '1M');
    const bytes = readFileSync(image);
    const at = bytes.indexOf(named);
    const length = bytes.readUInt32BE(at - 4);
    // the same room, with a relative name in it
    bytes.fill(0, at, at + length);
    bytes.write('longenoughname', at);
    bytes.writeUInt32BE(14, at - 4);
    const moved = Buffer.from(bytes);
    moved.copy(bytes, at + 16, at + Math.ceil(length / 8) * 8, 4096);
    writeFileSync(image, bytes);
    expect(refusal()).toBe('it was opened');
    patch('disk.qcow2');
    expect(refusal()).toContain('in its own backing chain, or holds the data of two images');
    writeFileSync(image, bytes);
    patch('nothing');
    expect(refusal()).toMatch(/the data file .*nothing of .*disk\.qcow2 does not exist; put it back/);
    writeFileSync(image, bytes);
    patch('json:{}');
    expect(refusal()).toContain("its data file 'json:{}' is no plain file");
  });

  test('a data file that is no regular file: a FIFO, a directory, a device', (context) => {
    qemuImg('create', '-q', '-f', 'qcow2', '-o', `data_file=${data}`, image, '1M');
    const replacedBy = (command: string, ...parameters: readonly string[]): void => {
      rmSync(data, { force: true, recursive: true });
      execFileSync(command, parameters);
      for (const readOnly of [false, true])
        expect(refusal(readOnly)).toBe(
          `${image} is not opened: its data file ${data} is no regular file, and nothing else is opened; ` +
            'put a regular file with its content in its place',
        );
    };
    replacedBy('mkfifo', data);
    replacedBy('mkdir', data);
    requireOrSkip(context, process.geteuid?.() === 0, 'root');
    replacedBy('mknod', data, 'c', '1', '3');
    replacedBy('mknod', data, 'b', '1', '0');
  });

  test('entries that lead to another place of the data file are corrupt, to check and to a write', () => {
    qemuImg('create', '-q', '-f', 'qcow2', '-o', `data_file=${data},cluster_size=4k`, image, '1M');
    qemuIo(image, 'qcow2', 'write -P 1 8k 4k', 'write -P 2 16k 4k');
    const bytes = readFileSync(image);
    const at = bytes.indexOf(Buffer.from('8000000000002000', 'hex'));
    bytes.writeUInt32BE(0x5000, at + 4);
    writeFileSync(image, bytes);
    const findings: string[] = [];
    const report = checkDisk(image, { repair: 'none', log: (finding) => findings.push(finding) });
    expect(report.corruptions).toBe(1);
    expect(findings.join()).toContain('refers to 0x5000 of the data file instead of 0x2000');
    expect(refusal()).toContain('1 corruptions');
    withDisk(image, { readOnly: true }, (disk) => {
      expect(() => disk.read(new Uint8Array(512), 0, 512, guestOffset(8192))).toThrow(/not a cluster of this file/);
      const target = new Uint8Array(512);
      disk.read(target, 0, 512, guestOffset(16_384));
      expect(target[0]).toBe(2);
    });
  });

  test('a COPIED flag that is missing is found and set by a repair', () => {
    qemuImg('create', '-q', '-f', 'qcow2', '-o', `data_file=${data},cluster_size=4k`, image, '1M');
    qemuIo(image, 'qcow2', 'write -P 1 8k 4k');
    const bytes = readFileSync(image);
    bytes[bytes.indexOf(Buffer.from('8000000000002000', 'hex'))] = 0;
    writeFileSync(image, bytes);
    expect(checkDisk(image, { repair: 'none', log: () => undefined }).corruptions).toBe(1);
    expect(checkDisk(image, { repair: 'all', log: () => undefined })).toMatchObject({ corruptionsFixed: 1 });
    expect(checkDisk(image, { repair: 'none', log: () => undefined }).corruptions).toBe(0);
    qemuCheck(image, 'qcow2');
  });
});

describe('the locks', () => {
  test('keep QEMU from a data file that is open here, and the other way round', async () => {
    qemuImg('create', '-q', '-f', 'qcow2', '-o', `data_file=${data}`, image, '1M');
    withDisk(image, { readOnly: false }, () => {
      expect(tryQemu('qemu-io', '-f', 'raw', '-c', 'write 0 512', data).output).toMatch(/lock/);
    });
    const holder = await QemuHolder.open(data, ['-f', 'raw'], 'write -P 1 0 512');
    try {
      expect(() => openDisk(image, { readOnly: false })).toThrow(/disk\.data is in use by/);
    } finally {
      await holder.close();
    }
    withDisk(image, { readOnly: false }, (disk) => disk.write(new Uint8Array(512), 0, 512, guestOffset(0)));
  });
});
