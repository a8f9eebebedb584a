// VHDX images that QEMU makes read here as they do there, also those that a killed QEMU leaves with a log to replay. QEMU knows no
// parents and no sectors of 4096 bytes; its own replay is no judge of logs that wrap or have several entries.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { checkDisk, inspectDisk } from '../../src/disk/index.ts';
import { readLayout } from '../../src/format/vhdx/header/layout.ts';
import { replay } from '../support/crash-states.ts';
import { fingerprints, firstDifference, readAll, withDisk } from '../support/image-files.ts';
import { MemoryHostFile } from '../support/memory-file.ts';
import { hasQemu, QemuHolder, qemuCheck, qemuImg, qemuIo } from '../support/qemu.ts';
import { parseWriteLog } from '../support/qemu-write-log.ts';
import { requireOrSkip } from '../support/requirements.ts';
import { makeTemporaryDirectory, removeTemporaryDirectory } from '../support/temporary.ts';
import { replayedVhdx, vhdxContent } from '../support/vhdx-judge.ts';

let folder: string;
let image: string;
beforeEach((context) => {
  requireOrSkip(context, hasQemu, 'qemu-img and qemu-io');
  folder = makeTemporaryDirectory();
  image = join(folder, 'disk.vhdx');
});
afterEach(() => {
  if (folder !== undefined) removeTemporaryDirectory(folder);
});

const WRITES = [
  'write -P 1 0 64k',
  'write -P 2 1000k 100k',
  'write -P 3 9M 3M',
  'write -P 4 20479k 1k',
  'write -z 2M 1M',
];

/** What QEMU reads of an image. */
function theirs(path: string): Buffer {
  const copy = join(folder, 'theirs.raw');
  qemuImg('convert', '-f', 'vhdx', '-O', 'raw', path, copy);
  return readFileSync(copy);
}

function expectLikeQemu(): void {
  const wanted = theirs(image);
  const before = fingerprints(folder);
  withDisk(image, { readOnly: true }, (disk) => {
    expect(firstDifference(readAll(disk), wanted)).toBe('none');
    const file = readFileSync(image);
    for (const { start, length, status, hostOffset } of disk.extents()) {
      const stored = status === 'data' ? file.subarray(hostOffset, hostOffset! + length) : Buffer.alloc(length);
      expect(firstDifference(stored, wanted.subarray(start, start + stored.length)), `${start}`).toBe('none');
    }
  });
  expect(fingerprints(folder)).toEqual(before);
}

test.each([
  'subformat=dynamic,block_size=1M',
  'subformat=dynamic,block_size=1M,block_state_zero=off',
  'subformat=dynamic',
  'subformat=dynamic,block_size=256M,log_size=4M',
  'subformat=fixed,block_size=2M',
])('an image made with %s', (options) => {
  qemuImg('create', '-q', '-f', 'vhdx', '-o', options, image, '20M');
  expectLikeQemu();
  qemuIo(image, 'vhdx', ...WRITES);
  expectLikeQemu();
  const info = JSON.parse(qemuImg('info', '--output=json', image)) as Record<string, unknown>;
  expect(inspectDisk(image)).toMatchObject({
    ...{ format: info['format'], virtualSize: info['virtual-size'], clusterSize: info['cluster-size'] },
    dirty: false,
  });
});

test('an image that qemu-img has converted, of odd size', () => {
  const disk = Buffer.alloc(5 * 1024 * 1024 + 512 * 77, 'converted').fill(0, 1_500_000, 3_500_000);
  writeFileSync(join(folder, 'disk.raw'), disk);
  qemuImg('convert', '-f', 'raw', '-O', 'vhdx', '-o', 'block_size=1M', join(folder, 'disk.raw'), image);
  withDisk(image, { readOnly: true }, (opened) => expect(firstDifference(readAll(opened), disk)).toBe('none'));
});

describe('of a QEMU that was killed', () => {
  test('whatever it leaves reads as QEMU reads it after a repair, and the file is not touched', async () => {
    for (let run = 0; run < 6; run++) {
      qemuImg('create', '-q', '-f', 'vhdx', '-o', 'block_size=1M', image, '20M');
      const writer = spawn('qemu-io', ['-f', 'vhdx', ...WRITES.flatMap((command) => ['-c', command]), image]);
      const ended = once(writer, 'exit');
      await new Promise((resolve) => setTimeout(resolve, 20 + 15 * run));
      writer.kill('SIGKILL');
      await ended;
      const before = fingerprints(folder);
      const ours = withDisk(image, { readOnly: true }, readAll);
      expect(fingerprints(folder)).toEqual(before);
      qemuImg('check', '-q', '-r', 'all', image);
      expect(firstDifference(ours, theirs(image)), `run ${run}`).toBe('none');
    }
  });

  test('every state on the way reads as QEMU and the judge replay it', async () => {
    qemuImg('create', '-q', '-f', 'vhdx', '-o', 'block_size=1M', image, '20M');
    const start = new MemoryHostFile(readFileSync(image));
    const logFile = join(folder, 'log');
    writeFileSync(logFile, '');
    const file = `file.driver=blklogwrites,file.file.driver=file,file.file.filename=${image}`;
    const node = `driver=vhdx,${file},file.log.driver=file,file.log.filename=${logFile}`;
    const writer = await QemuHolder.open(node, ['-t', 'writeback', '--image-opts'], ...WRITES);
    await writer.close();
    const { operations } = parseWriteLog(readFileSync(logFile));
    // how QEMU makes the file longer is not in that log
    const { size } = statSync(image);
    let replayed = 0;
    for (let count = 0; count <= operations.length; count++) {
      const state = replay(start, operations.slice(0, count));
      state.truncate(size);
      const bytes = Buffer.from(state.bytes());
      const { replay: found, view } = readLayout(state);
      const seen = Buffer.alloc(view.size());
      view.read(seen, 0, seen.length, 0 as never);
      expect(firstDifference(seen, replayedVhdx(bytes)), `after ${count} operations`).toBe('none');
      if (found === null) continue;
      replayed++;
      writeFileSync(image, bytes);
      const ours = withDisk(image, { readOnly: true }, readAll);
      expect(firstDifference(ours, vhdxContent(bytes)), `after ${count} operations`).toBe('none');
      if (count % 2 > 0) continue;
      // the log is replayed by QEMU, or by us
      if (count % 4 > 0) qemuImg('check', '-q', '-r', 'all', image);
      else checkDisk(image, { repair: 'all', log: () => undefined });
      qemuCheck(image, 'vhdx');
      expect(firstDifference(ours, theirs(image)), `after ${count} operations`).toBe('none');
    }
    expect(replayed).toBeGreaterThan(10);
  });
});
