// Files whose inode numbers are above 2^53, on an overlayfs that puts the number of the layer into the upper bits (xino=on).
// As JavaScript numbers such neighbours are one; here they stay two.

import { readFileSync } from 'node:fs';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { hasQemu } from '../support/qemu.ts';
import { canMountAsRoot, hasCommand, requireOrSkip } from '../support/requirements.ts';
import { Bench, CLI, type Result } from './cli-harness.ts';

let bench: Bench;

beforeEach((context) => {
  requireOrSkip(context, canMountAsRoot(), 'root and /dev/fuse');
  requireOrSkip(context, hasQemu, 'qemu-img and qemu-io');
  requireOrSkip(context, readFileSync('/proc/filesystems', 'utf8').includes('\toverlay\n'), 'overlayfs');
  bench = new Bench();
});

afterEach(() => bench?.cleanUp());

const SET_UP = `set -eu; mkdir lower upper joined; mount -t tmpfs lower lower; mount -t tmpfs upper upper
  mkdir lower/l upper/u upper/w upper/one upper/two upper/three
  qemu-img create -q -f raw lower/l/base 1M; printf BASE | dd of=lower/l/base conv=notrunc status=none
  (cd lower/l; qemu-img create -q -f qcow2 -b base -F raw middle; qemu-img create -q -f qcow2 -b middle -F qcow2 top
   qemu-img create -q -f qcow2 a 1M; qemu-img create -q -f qcow2 b 1M)
  mount -t overlay -o lowerdir=lower/l,upperdir=upper/u,workdir=upper/w,xino=on joined joined
  I="${process.execPath} ${CLI}"`;

function script(text: string): Result {
  return bench.run('unshare', ['--mount', '--propagation', 'private', 'sh', '-c', `${SET_UP}; ${text}`]);
}

it('the images of a chain are no loop', () => {
  const { code, stdout, stderr } = script('stat -c %i joined/base joined/top; $I map joined/top');
  expect(
    stdout
      .split('\n')
      .slice(0, 2)
      .map(Number)
      .every((inode) => inode > Number.MAX_SAFE_INTEGER),
  ).toBe(true);
  expect(stdout).toMatch(/ \S*joined\/base\n/);
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
});

it('a mount without locks keeps a second writer from its own image, and from no other', () => {
  const { stdout, stderr } = script(
    `stat -c %i joined/a joined/b; $I mount --no-lock joined/a upper/one; $I mount --no-lock joined/b upper/two || echo refused
     $I mount --no-lock joined/a upper/three || echo kept; $I unmount upper/two; $I unmount upper/one`,
  );
  const [a, b] = stdout.split('\n');
  expect(Number(a)).toBe(Number(b));
  expect(a).not.toBe(b);
  expect(stderr).toMatch(/joined\/a is open for writing by another imgfuse already, .* names it\n/);
  expect(stderr).not.toContain('joined/b is open for writing');
  expect(stdout).toMatch(/^kept$/m);
  expect(stdout).not.toContain('refused');
});

it('who holds a lock is told from who holds one of a neighbour', (context) => {
  requireOrSkip(context, hasCommand('python3'), 'python3');
  // byte 200: "I do not share reading"; 37 is F_OFD_SETLK, 6 F_SETLK, whose process /proc/locks names
  const lock = (file: string, command: number): string =>
    `import fcntl, os, struct, time
file = os.open('joined/${file}', os.O_RDONLY)
fcntl.fcntl(file, ${command}, struct.pack('hhqqi4x', fcntl.F_RDLCK, 0, 200, 1, 0))
open('held-${file}', 'w').close()
time.sleep(60)`;
  const { stdout, stderr } = script(
    `python3 -c "${lock('base', 37)}" & ofd=$!; python3 -c "${lock('middle', 6)}" & posix=$!
     until test -e held-base -a -e held-middle; do sleep 0.05; done
     echo "holder $ofd"; $I info joined/base || true; kill $ofd $posix`,
  );
  const [, holder] = /holder (\d+)/.exec(stdout)!;
  expect(stderr).toContain(`joined/base is in use by python3 (process ${holder}), which holds`);
});
