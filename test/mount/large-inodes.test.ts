// Files whose inode numbers are above 2^53, on an overlayfs that puts the number of the layer into the upper bits (xino=on).
// As JavaScript numbers such neighbours are one; here they stay two.

import { readFileSync } from 'node:fs';
import { relative } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { EVERY_KIND } from '../support/every-kind.ts';
import { hasQemu } from '../support/qemu.ts';
import { canMountAsRoot, hasCommand, requireOrSkip } from '../support/requirements.ts';
import { Bench, CLI, type Result } from './cli-harness.ts';

let bench: Bench;

beforeEach((context) => {
  requireOrSkip(context, canMountAsRoot(), 'root and /dev/fuse');
  requireOrSkip(context, hasQemu, 'qemu-img and qemu-io');
  requireOrSkip(context, readFileSync('/proc/filesystems', 'utf8').includes('\toverlay\n'), 'overlayfs');
  bench = new Bench();
  bench.makeDirectory('made');
});

afterEach(() => bench?.cleanUp());

const SET_UP = `set -eu; mkdir lower upper joined; mount -t tmpfs lower lower; mount -t tmpfs upper upper
  mkdir lower/l upper/u upper/w upper/one upper/two upper/three
  qemu-img create -q -f raw lower/l/base 1M; printf BASE | dd of=lower/l/base conv=notrunc status=none
  (cd lower/l; qemu-img create -q -f qcow2 -b base -F raw middle; qemu-img create -q -f qcow2 -b middle -F qcow2 top
   qemu-img create -q -f qcow2 a 1M; qemu-img create -q -f qcow2 b 1M)
  I="${process.execPath} ${CLI}"
  cp -r made/. lower/l`;
const JOIN = `mount -t overlay -o lowerdir=lower/l,upperdir=upper/u,workdir=upper/w,xino=on joined joined`;

/** @param before runs where the files of the lower layer are, before it is one: those alone get large numbers */
function script(text: string, before = ':'): Result {
  const all = `${SET_UP}\n(cd lower/l; ${before})\n${JOIN}\n${text}`;
  return bench.run('unshare', ['--mount', '--propagation', 'private', 'sh', '-c', all]);
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

const INODES = `find joined -type f -exec stat -c '%i inode' {} +`;

/** @throws unless the numbers are those that this test is about: large, and fewer as JavaScript numbers */
function expectNeighbours(stdout: string): void {
  const inodes = [...stdout.matchAll(/^(\d+) inode$/gm)].map(([, digits]) => digits!);
  expect(inodes.every((inode) => Number(inode) > Number.MAX_SAFE_INTEGER)).toBe(true);
  expect(new Set(inodes.map(Number)).size).toBeLessThan(new Set(inodes).size);
}

it('the files of one image are told apart in every kind of image', () => {
  const made = EVERY_KIND.map(({ name, make }) => make(bench.makeDirectory(`made/${name.replaceAll(/[, ]+/g, '-')}`)));
  const images = made.map(({ image }) => relative(bench.path('made'), image));
  const { code, stdout, stderr } = script(`${INODES}; for each in ${images.join(' ')}; do $I map joined/$each; done`);
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
  expectNeighbours(stdout);
});

it.each(EVERY_KIND.filter(({ hasBacking }) => hasBacking))('the images of a chain of $name are no loop', ({
  format,
  make,
}) => {
  // VirtualBox has no names in its images; its parents are looked for among the files with this ending
  make(bench.path('made'), 'base.vdi');
  const create = `$I create -q -f ${format} -F ${format}`;
  const { code, stdout, stderr } = script(
    `${INODES}; $I mount joined/top.vdi upper/one; head -c 5 upper/one/disk.raw; $I unmount joined/top.vdi`,
    `${create} -b base.vdi middle.vdi; ${create} -b middle.vdi top.vdi`,
  );
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
  expectNeighbours(stdout);
  expect(stdout).toMatch(/first$/);
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
