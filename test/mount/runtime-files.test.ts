// What a mount leaves in the runtime directory: nothing after a clean end, its log where that tells of trouble that nobody has
// been shown, and nothing for good.

import { execFileSync } from 'node:child_process';
import { closeSync, openSync, readFileSync, writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { canMountAsRoot, hasCommand, requireOrSkip } from '../support/requirements.ts';
import { Bench, CLI, mountsUnder, outlives } from './cli-harness.ts';

/** of an image that qemu-img makes */
const CLUSTER = 65_536;

let bench: Bench;
beforeEach((context) => {
  requireOrSkip(context, canMountAsRoot(), 'root and /dev/fuse');
  bench = new Bench();
  for (const name of ['mnt', 'mnt2']) bench.makeDirectory(name);
  for (const name of ['a.qed', 'b.qed']) bench.imgfuse('create', '-f', 'qed', name, '8M');
});
afterEach(() => bench?.cleanUp());

describe('a runtime directory that is full', () => {
  function limit(option: string): void {
    execFileSync('mount', ['-t', 'tmpfs', '-o', `mode=700,${option}`, 'tmpfs', bench.runtime]);
  }

  function expectNoMount(sentence: RegExp): void {
    const before = bench.runtimeFiles();
    const { code, stderr } = bench.imgfuse('mount', 'a.qed', 'mnt');
    expect(stderr).toMatch(sentence);
    expect(stderr).not.toContain('internal error');
    expect(code).toBe(32);
    expect(bench.runtimeFiles()).toEqual(before);
    expect(mountsUnder(bench.directory)).toEqual([bench.runtime]);
    expect(bench.imgfuse('check', 'a.qed').code).toBe(0);
  }

  it('of data is an error that says so, and nothing is mounted or left', () => {
    limit('size=64k');
    const fill = openSync(join(bench.runtime, 'fill'), 'w');
    expect(() => {
      for (;;) writeSync(fill, Buffer.alloc(4096, 1));
    }).toThrow('ENOSPC');
    closeSync(fill);
    expectNoMount(/the record .* of the mount cannot be written .*no space left/);
  });

  it('of files is the same', () => {
    limit('nr_inodes=1');
    expectNoMount(/the control socket .* cannot be opened .*no space left/i);
  });
});

describe('the log of a mount', () => {
  it('that does not start is removed, because the command has shown what it says', () => {
    bench.makeDirectory('directory');
    const { code, stderr } = bench.imgfuse('mount', '--no-lock', 'a.qed', 'mnt', '--pid-file', 'directory');
    expect(stderr).toMatch(/is opened without locks.*\n.*is no regular file/);
    expect(code).toBe(1);
    expect(bench.runtimeFiles()).toEqual([]);
  });

  it('is kept after a clean close when a request has failed', (context) => {
    requireOrSkip(context, hasCommand('qemu-img'), 'qemu-img');
    writeFileSync(bench.path('disk.raw'), Buffer.alloc(CLUSTER, 1));
    bench.run('qemu-img', ['convert', '-c', '-O', 'qcow2', 'disk.raw', 'disk.qcow2']);
    const image = openSync(bench.path('disk.qcow2'), 'r+');
    // behind header, refcount table and block, L1 and L2 table: what does not inflate
    writeSync(image, Buffer.alloc(512, 0xff), 0, 512, 5 * CLUSTER);
    closeSync(image);
    expect(bench.imgfuse('mount', 'disk.qcow2', 'mnt').code).toBe(0);
    const { log } = bench.records()[0]!;
    expect(() => readFileSync(bench.path('mnt/disk.raw'))).toThrow('EIO');
    expect(bench.imgfuse('unmount', 'mnt').code).toBe(0);
    expect(readFileSync(log!, 'utf8')).toMatch(/ error: READ failed/);
    expect(bench.runtimeFiles()).toHaveLength(1);
  });
});

describe('the files of a killed mount that umount(8) has taken away', () => {
  beforeEach(async () => {
    expect(bench.imgfuse('mount', 'a.qed', 'mnt').code).toBe(0);
    const pid = bench.daemonPid();
    process.kill(pid, 'SIGKILL');
    expect(await outlives(pid, 10_000)).toBe(false);
    expect(bench.runtimeFiles()).toHaveLength(3);
  });

  it('are removed by the next mount, but not while the dead mount is still there', () => {
    expect(bench.imgfuse('mount', 'b.qed', 'mnt2').code).toBe(0);
    expect(bench.imgfuse('unmount', 'mnt2').code).toBe(0);
    expect(bench.runtimeFiles()).toHaveLength(3);
    execFileSync('umount', ['-i', bench.path('mnt')]);
    expect(bench.imgfuse('mount', 'b.qed', 'mnt2').code).toBe(0);
    expect(bench.records()).toMatchObject([{ mountpoint: bench.path('mnt2') }]);
    expect(bench.imgfuse('unmount', 'mnt2').code).toBe(0);
    expect(bench.runtimeFiles()).toEqual([]);
  });

  it('are removed by status, but for a log with an error in it', (context) => {
    requireOrSkip(context, hasCommand('unshare'), 'unshare');
    expect(bench.imgfuse('status').stdout).toContain('dead');
    const log = bench.runtimeFiles().find((name) => name.endsWith('.log'))!;
    writeFileSync(join(bench.runtime, log), '2026-11-20T12:00:00.000Z error: READ failed: as a test\n');
    execFileSync('umount', ['-i', bench.path('mnt')]);
    const status = bench.runAlone(`"${process.execPath}" "${CLI}" status`);
    expect(status).toEqual({ code: 0, stdout: 'nothing is mounted\n', stderr: '' });
    expect(bench.runtimeFiles()).toEqual([log]);
  });
});
