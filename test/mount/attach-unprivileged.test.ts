// attach and detach without root: what a program in user space can serve is served, and for the rest it is said what works.

import { chmodSync, chownSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { loopsUnder } from '../support/attach-run.ts';
import { fsckOf, makeGuestDisk, type PlacedPart, run } from '../support/guest-images.ts';
import { canMountAsRoot, hasCommand, requireOrSkip } from '../support/requirements.ts';
import { Bench, CLI, mountsUnder, NOBODY, type Result } from './cli-harness.ts';

const TOOLS = [
  'sfdisk',
  'losetup',
  'mkfs.ext4',
  'mkfs.xfs',
  'mksquashfs',
  'fuse2fs',
  'squashfuse',
  'fusermount3',
  'setpriv',
];
const SQUASHFS = ['sh', '-euc', 'mksquashfs "$(dirname "$0")/../etc/hosts" "$0" -noappend -quiet >/dev/null'] as const;

let bench: Bench;
let image: string;
let parts: PlacedPart[];
beforeEach((context) => {
  requireOrSkip(context, canMountAsRoot() && TOOLS.every(hasCommand), `root, /dev/fuse, ${TOOLS.join(', ')}`);
  bench = new Bench();
  chownSync(bench.runtime, NOBODY, NOBODY);
  chownSync(bench.makeDirectory('guest'), NOBODY, NOBODY);
  image = bench.path('disk.img');
  parts = makeGuestDisk(image, 'gpt', [
    { mib: 16, make: ['mkfs.ext4', '-q', '-F'] },
    { mib: 304, make: ['mkfs.xfs', '-q', '-f'] },
    { mib: 8, make: SQUASHFS },
  ]);
  chownSync(image, NOBODY, NOBODY);
  chmodSync(image, 0o600);
});
afterEach(() => bench.cleanUp());

function asNobody(script: string): Result {
  const setUp = `I="${process.execPath} ${CLI}"; cd ${bench.directory}`;
  return bench.runAsNobody(`${setUp}\n${script}`);
}

function leftovers(): string[] {
  return [...mountsUnder(bench.directory), ...loopsUnder(bench.directory), ...bench.runtimeFiles()];
}

test('ext4 is served by fuse2fs, read-write, and the image is closed clean after its server has ended', () => {
  const result = asNobody(`
    $I attach disk.img guest --partition 1
    grep -c " ${bench.directory}/guest .* fuse.ext4 " /proc/self/mountinfo
    echo kept >guest/file
    $I detach guest
    $I attach -r disk.img --partition 1 -- cat file
  `);
  expect(result.code, result.stderr).toBe(0);
  expect(result.stdout.split('\n')).toEqual([
    `${image} (partition 1, ext4) is attached at ${bench.path('guest')}`,
    '1',
    `${image} is closed and clean`,
    'kept',
    '',
  ]);
  expect(result.stderr).toContain(
    'partition 1 (ext4) is served by fuse2fs, because only root can let the kernel mount it',
  );
  expect(leftovers()).toEqual([]);
  expect(readdirSync(bench.path('guest'))).toEqual([]);
  expect(fsckOf('ext4', image, parts[0]!)).toBeNull();
});

test('a journal is read past if ro is given, and else replayed before fuse2fs writes', () => {
  const guest = bench.path('guest');
  chownSync(bench.runtime, 0, 0);
  expect(bench.imgfuse('attach', image, guest, '--partition', '1').code).toBe(0);
  run('sh', ['-euc', `cd ${guest}; echo kept >file; sync file`]);
  process.kill(bench.daemonPid(), 'SIGKILL');
  expect(bench.imgfuse('detach', guest).code).toBe(32);
  rmSync(bench.runtime, { recursive: true });
  chownSync(bench.makeDirectory('run'), NOBODY, NOBODY);
  chmodSync(bench.runtime, 0o700);
  const before = readFileSync(image);
  const looked = asNobody('$I attach -r disk.img --partition 1 -- ls');
  expect(looked.code, looked.stderr).toBe(0);
  expect(looked.stderr).toContain('read-only its journal is not replayed');
  expect(readFileSync(image).equals(before)).toBe(true);

  const written = asNobody('$I attach disk.img --partition 1 -- sh -euc "cat file; echo more >more"');
  expect(written.code, written.stderr).toBe(0);
  expect(written.stdout).toBe('kept\n');
  expect(fsckOf('ext4', image, parts[0]!)).toBeNull();
  expect([...mountsUnder(bench.directory), ...loopsUnder(bench.directory)]).toEqual([]);
});

test('squashfs is served by squashfuse', () => {
  const result = asNobody('$I attach disk.img --partition 3 -- ls');
  expect(result.code, result.stderr).toBe(0);
  expect(result.stdout).toBe('hosts\n');
  expect(leftovers()).toEqual([]);
});

test('xfs needs root, and it is said what works without', () => {
  const result = asNobody('$I attach disk.img guest --partition 2 || echo "exit code $?"');
  expect(result.stdout).toBe('exit code 1\n');
  expect(result.stderr).toBe(
    'imgfuse: mounting xfs needs root (sudo imgfuse attach ...), and no program here mounts it without root; ' +
      'its bytes can be read without: imgfuse mount IMAGE DIR shows them as DIR/partitions/2.raw\n',
  );
  expect(leftovers()).toEqual([]);
});

test('a container without loop devices is served as an ordinary user is', () => {
  chownSync(bench.runtime, 0, 0);
  const dev = bench.makeDirectory('dev');
  const script = `
    mount -t tmpfs -o mode=755 tmpfs ${dev}
    mknod ${dev}/fuse c 10 229
    mknod -m 666 ${dev}/null c 1 3
    mount --move ${dev} /dev
    ${process.execPath} ${CLI} attach disk.img --partition 1 -- ls
  `;
  const result = bench.run('unshare', ['--mount', '--propagation', 'private', 'sh', '-euc', script]);
  expect(result.code, result.stderr).toBe(0);
  expect(result.stdout).toBe('lost+found\n');
  expect(result.stderr).toContain('is served by fuse2fs, because no loop device can be used here');
  expect(run('losetup', ['--noheadings', '--associated', image])).toBe('');
});
