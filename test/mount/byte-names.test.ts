// Names that are not UTF-8, as old archives have them: every command keeps their bytes, for images, backing and data files,
// mountpoints and the working directory. Node replaces such bytes, which would name another file. All of it runs through a
// shell, because this test cannot pass such names itself.

import { chownSync, mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { drawnFormats } from '../support/drawn-rows.ts';
import { canMountAsRoot, hasCommand, requireOrSkip } from '../support/requirements.ts';
import { Bench, CLI, NOBODY, type Result } from './cli-harness.ts';

let bench: Bench;

beforeEach(() => {
  bench = new Bench();
});

afterEach(() => {
  // what a failed test has left: the bench cannot name it
  bench.run('sh', [
    '-c',
    'for place in "$0"/m* "$0"/*/m*; do umount -il "$place" 2>/dev/null; done; true',
    bench.directory,
  ]);
  bench.cleanUp();
});

/** $N is "caf\xe9", $I is imgfuse. */
function script(text: string): Result {
  return bench.run('sh', ['-c', whole(text)]);
}

function whole(text: string): string {
  return `set -eu; N=$(printf 'caf\\351'); I="${process.execPath} ${CLI}"; ${text}`;
}

/** The same as nobody, with a /dev/fuse that everybody may open, as udev makes it. */
function scriptOfNobody(text: string): Result {
  const node = bench.path('fuse-node');
  const setUp = `mknod ${node} c 10 229 && chmod 666 ${node} && mount --bind ${node} /dev/fuse`;
  const user = `exec setpriv --reuid=${NOBODY} --regid=${NOBODY} --clear-groups sh -c "$0"`;
  return bench.run('unshare', ['--mount', '--propagation', 'private', 'sh', '-c', `${setUp} && ${user}`, whole(text)]);
}

/** Names in a directory of the bench, each byte a character. */
function namesIn(directory: string): string[] {
  return readdirSync(directory, 'latin1').sort();
}

describe('without a mount', () => {
  it.each(
    drawnFormats(['qed', 'qcow2', 'vdi', 'vmdk', 'vpc', 'vhdx', 'parallels']),
  )('create -f %s makes a file of exactly this name, and info, check, map and resize find it', (format) => {
    const made = script(`$I create -f ${format} "$N.img" 4M; $I info "$N.img"; $I check -q "$N.img"; $I map "$N.img"`);
    expect(made).toMatchObject({ code: 0, stderr: '' });
    expect(made.stdout).toContain('image: caf\\351.img\n');
    expect(namesIn(bench.directory)).toEqual(['caf\xe9.img', 'run']);
    expect(script('$I resize -q "$N.img" 8M; $I info --output=json "$N.img"').stdout).toContain('8388608');
  });

  it.each([
    ['qed', ''],
    ['qcow2', ''],
    ['qcow2', '-o data_file="data$N"'],
  ])('%s %s stores and finds names byte for byte', (format, options) => {
    const made = script(
      `mkdir "dir$N"; printf RIGHT >"dir$N/base$N"; truncate -s 1M "dir$N/base$N"
      $I create -q -f ${format} ${options} -b "base$N" -F raw "dir$N/top"; $I map "dir$N/top"
      $I info --output=json "dir$N/top"`,
    );
    expect(made).toMatchObject({ code: 0, stderr: '' });
    expect(made.stdout).toContain('/dircaf\\351/basecaf\\351\n');
    const json = JSON.parse(made.stdout.slice(made.stdout.indexOf('{'))) as Record<string, unknown>;
    expect(json['backing-filename']).toBe('basecaf\udce9');
    expect(json['full-backing-filename']).toBe(`${bench.directory}/dircaf\udce9/basecaf\udce9`);
    const wanted = ['basecaf\\351', ...(options === '' ? [] : ['datacaf\\351']), 'top'];
    expect(script('ls -b "dir$N"').stdout.split('\n').filter(Boolean)).toEqual(wanted);
  });

  it('a VDI child, which stores no name, finds its parent in the same folder, and no other place is asked for', () => {
    const made = script(
      `mkdir "$N"; cd "$N"; $I create -q -f vdi "$N.vdi" 1M; $I create -q -f vdi -b "$N.vdi" -F vdi "top$N"; $I map "top$N"`,
    );
    expect(made).toMatchObject({ code: 0, stderr: '' });
  });

  it('a VHD child finds its parent in a directory of such a name; a parent of such a name is refused, because a VHD stores UTF-16', () => {
    const made = script(
      `mkdir "$N"; cd "$N"; $I create -q -f vpc base 1M; $I create -q -f vpc -b base -F vpc top; $I info top; mv base "base$N"
      $I create -q -f vpc -b "base$N" -F vpc other`,
    );
    expect(made.stdout).toContain(`${bench.directory}/caf\\351/base`);
    expect(made.stderr).toBe(
      "imgfuse: other is not made: the name 'basecaf\\351' of its backing file is not UTF-8, and a VHD stores names as UTF-16\n",
    );
    expect(made.code).toBe(1);
    expect(namesIn(bench.path('')).length).toBe(2);
  });

  it('a relative name counts from a working directory that is not UTF-8', () => {
    const made = script(
      'mkdir "$N"; cd "$N"; $I create -q -f qed base 1M; $I create -q -f qed -b base -F qed top; $I info top',
    );
    expect(made).toMatchObject({ code: 0, stderr: '' });
    expect(made.stdout).toContain(`${bench.directory}/caf\\351/base`);
  });

  it('an error shows the bytes in octal', () => {
    const { code, stderr } = script('$I info "$N"');
    expect(stderr).toBe('imgfuse: caf\\351 does not exist\n');
    expect(code).toBe(1);
  });

  it('a URL and a runtime directory must be UTF-8, and are refused by name', () => {
    const url = script('$I info "http://localhost:1/$N"');
    expect(url.stderr).toContain("'http://localhost:1/caf\\351' is no http or https URL");
    const directory = script('IMGFUSE_RUNTIME_DIR=/tmp/$N $I status');
    expect(directory.stderr).toMatch(/IMGFUSE_RUNTIME_DIR=.* is not UTF-8; choose another directory/);
    expect([url.code, directory.code]).toEqual([1, 1]);
  });
});

describe('mounted', () => {
  beforeEach((context) => requireOrSkip(context, canMountAsRoot(), 'root and /dev/fuse'));

  const SET_UP = `mkdir "$N" "m$N"; printf RIGHT >"$N/base$N"; truncate -s 1M "$N/base$N"
    $I create -q -f qcow2 -b "base$N" -F raw "$N/top$N"`;

  it('an image is found by its mountpoint, by its name, and from its directory', () => {
    const first = script(`${SET_UP}; $I mount "$N/top$N" "m$N"; head -c5 "m$N/disk.raw"; $I status; $I unmount "m$N"`);
    expect(first.code).toBe(0);
    expect(first.stdout).toMatch(/^RIGHT/);
    expect(first.stdout).toMatch(/mcaf\\351 .*\/caf\\351\/topcaf\\351 +qcow2 +mounted/);
    const second = script(
      'cd "$N"; $I mount --output=json "top$N" "../m$N"; head -c5 "../m$N/disk.raw"; $I unmount "top$N"',
    );
    expect(second.code).toBe(0);
    expect(second.stdout).toContain('mcaf\\udce9"');
    expect(second.stdout).toMatch(/RIGHT$/);
  });

  it('an image becomes the disk itself', () => {
    const result =
      script(`${SET_UP}; $I mount -f "$N/top$N" "$N/top$N" & until head -c5 "$N/top$N" | grep RIGHT; do sleep 0.1; done
      $I unmount "$N/top$N"; wait`);
    expect(result.stdout).toContain('RIGHT');
    expect(result.code).toBe(0);
  });

  it('who keeps it busy is found, and the cure is a command that works', () => {
    const busy = script(`${SET_UP}; $I mount "$N/top$N" "m$N"; losetup --find --show "m$N/disk.raw" >loop
      cd "m$N"; sleep 60 & echo $! >../sleeper; cd ..; $I unmount "m$N" || true; kill $(cat sleeper); losetup -d $(cat loop)`);
    expect(busy.stderr).toMatch(/\/dev\/loop\d+, process \d+ \(sleep\)/);
    expect(script('$I unmount "m$N"')).toMatchObject({ code: 0 });
  });

  it('fuse-native, which cannot take such names, refuses them', () => {
    const { code, stderr } = script(`${SET_UP}; $I mount --transport fuse-native "$N/top$N" "m$N"`);
    expect(stderr).toContain('fuse-native cannot take names that are not UTF-8: use --transport kernel');
    expect(code).toBe(32);
  });

  it('an ordinary user mounts and unmounts through fusermount3', (context) => {
    requireOrSkip(context, hasCommand('fusermount3'), 'fusermount3');
    const home = bench.makeDirectory('home');
    for (const path of [home, bench.runtime]) chownSync(path, NOBODY, NOBODY);
    const result = scriptOfNobody(
      `cd home; ${SET_UP}; $I mount "$N/top$N" "m$N"; head -c5 "m$N/disk.raw"; $I unmount "m$N"`,
    );
    expect(result).toMatchObject({ code: 0, stdout: 'RIGHT' });
  });
});

it('of a process that changed its own command line, such a name is refused before anything is made', () => {
  mkdirSync(bench.path('work'));
  writeFileSync(bench.path('title.mjs'), `process.title = 'x'; await import('${CLI}');`);
  const { code, stderr } = script(`cd work; ${process.execPath} ../title.mjs create -f qed "$N" 1M`);
  expect(stderr).toMatch(/the argument .* is not UTF-8, and \/proc\/self\/cmdline does not have its bytes/);
  expect(code).toBe(1);
  expect(namesIn(bench.path('work'))).toEqual([]);
});
