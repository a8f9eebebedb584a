// install.sh and uninstall.sh for real, with mount(8), fstab and umount(8) on top: in a mount namespace of its own whose
// /usr and /etc are overlays, so that nothing of the machine changes.

import { existsSync, lstatSync, mkdirSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { canMountAsRoot, hasCommand, requireOrSkip } from '../support/requirements.ts';
import { Bench, NOBODY, type Result } from './cli-harness.ts';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
let bench: Bench;

beforeEach((context) => {
  requireOrSkip(context, canMountAsRoot() && hasCommand('unshare'), 'root, /dev/fuse and unshare');
  requireOrSkip(context, existsSync('/sbin/mount.fuse3'), 'mount.fuse3');
  bench = new Bench();
  bench.makeDirectory('mnt');
  bench.imgfuse('create', '-f', 'qed', 'a.qed', '8M');
});
afterEach(() => bench?.cleanUp());

/** Runs a shell script where /usr, /etc, /opt (and /sbin, if that is no link) can be written without a trace. */
function inNamespace(script: string): Result {
  const folders = ['/usr', '/etc', '/opt', ...(lstatSync('/sbin').isSymbolicLink() ? [] : ['/sbin'])];
  mkdirSync(bench.path('layers'));
  const overlays = folders.map((folder) => {
    const layer = `${bench.path('layers')}${folder}`;
    return `mkdir -p ${layer}/upper ${layer}/work; mount -t overlay overlay -o lowerdir=${folder},upperdir=${layer}/upper,workdir=${layer}/work ${folder}`;
  });
  // upper layers on a tmpfs: an overlay cannot lie on every file system
  const setUp = [`mount -t tmpfs tmpfs ${bench.path('layers')}`, ...overlays].join('\n');
  return bench.runAlone(`${setUp}\ncd ${bench.directory}\n${script}\n`);
}

function filesUnder(directory: string): string[] {
  return readdirSync(directory, { recursive: true, withFileTypes: true })
    .filter((entry) => !entry.isDirectory())
    .map((entry) => join(entry.parentPath, entry.name));
}

describe('an installed imgfuse', () => {
  it.each(['/usr/local', '/opt/imgfuse'])('with PREFIX=%s is found by mount(8), fstab and umount(8)', (prefix) => {
    const result = inNamespace(`
      ${ROOT}/scripts/install.sh PREFIX=${prefix} >/dev/null
      A=${bench.path('a.qed')} M=${bench.path('mnt')}
      mount -t fuse.imgfuse $A $M -o noatime
      grep " $M " /proc/self/mountinfo
      dd if=/dev/zero of=$M/disk.raw bs=64k count=2 conv=notrunc status=none
      umount $M
      # the helper has waited: nobody holds the image, and it is clean, at once
      ${prefix}/bin/imgfuse info --output=json $A | grep dirty-flag
      echo "$A $M fuse.imgfuse ro,nofail 0 0" >>/etc/fstab
      mount $M
      ${prefix}/bin/imgfuse status
      umount $M
      umount $M 2>/dev/null || echo "code $?"
      mount -t fuse.imgfuse $A/nope $M 2>&1 || echo "code $?"
      man -w ${prefix}/share/man/man1/imgfuse.1 >/dev/null && echo manual
      ${ROOT}/scripts/uninstall.sh PREFIX=${prefix} >/dev/null
      ls ${prefix}/bin/imgfuse ${prefix}/lib/imgfuse /sbin/umount.fuse.imgfuse /sbin/mount.fuse.imgfuse 2>/dev/null || echo gone
    `);
    expect(result.stderr).toBe('');
    expect(result.stdout).toMatch(/noatime.* - fuse\.imgfuse .*a\.qed /);
    expect(result.stdout).toMatch(/"dirty-flag": false/);
    expect(result.stdout).toMatch(/a\.qed +qed +mounted +ro/);
    expect(result.stdout).toMatch(/^code 32$/m);
    expect(result.stdout).toMatch(/^gone$/m);
    expect(result.code).toBe(0);
  });

  it('in a DESTDIR has exactly the documented files, and uninstall.sh leaves none of them', () => {
    const stage = bench.path('stage');
    const variables = [`DESTDIR=${stage}`, 'PREFIX=/usr', 'SBINDIR=/usr/sbin'];
    const installed = bench.run(`${ROOT}/scripts/install.sh`, variables);
    expect(installed.code).toBe(0);
    const outside = filesUnder(stage).filter((path) => !path.startsWith(`${stage}/usr/lib/imgfuse/`));
    expect(outside.sort()).toEqual(
      [
        '/usr/bin/imgfuse',
        '/usr/lib/systemd/system/imgfuse@.service',
        '/usr/sbin/umount.fuse.imgfuse',
        '/usr/share/man/man1/imgfuse.1',
      ].map((path) => stage + path),
    );
    expect(readFileSync(`${stage}/usr/lib/systemd/system/imgfuse@.service`, 'utf8')).toContain(
      'ExecStart=/usr/bin/imgfuse ',
    );
    expect(readFileSync(`${stage}/usr/bin/imgfuse`, 'utf8')).toContain("'/usr/lib/imgfuse/dist/cli.js'");
    expect(bench.run(`${ROOT}/scripts/uninstall.sh`, variables).code).toBe(0);
    expect(filesUnder(stage)).toEqual([]);
  });

  it('with a PREFIX of its own has the second helper, and with an empty SBINDIR none', () => {
    const stage = bench.path('stage');
    const install = (...variables: readonly string[]): string[] => {
      expect(bench.run(`${ROOT}/scripts/install.sh`, [`DESTDIR=${stage}`, ...variables])).toMatchObject({ code: 0 });
      const found = filesUnder(stage).filter((path) => !path.includes('/lib/imgfuse/') && !path.includes('/share/'));
      expect(bench.run(`${ROOT}/scripts/uninstall.sh`, [`DESTDIR=${stage}`, ...variables]).code).toBe(0);
      expect(filesUnder(stage)).toEqual([]);
      return found.map((path) => path.slice(stage.length)).sort();
    };
    const own = ['/opt/x/bin/imgfuse', '/opt/x/lib/systemd/system/imgfuse@.service'];
    const helpers = ['/sbin/mount.fuse.imgfuse', '/sbin/umount.fuse.imgfuse'];
    expect(install('PREFIX=/opt/x')).toEqual([...own, ...helpers]);
    expect(install('PREFIX=/opt/x', 'SBINDIR=')).toEqual(own);
  });

  it('is not replaced or removed under a mount that it serves, but beside one of another imgfuse', () => {
    const result = inNamespace(`
      A=${bench.path('a.qed')} M=${bench.path('mnt')} S=${ROOT}/scripts
      $S/install.sh PREFIX=/opt/one >/dev/null
      $S/install.sh PREFIX=/opt/two >/dev/null
      /opt/one/bin/imgfuse mount $A $M
      $S/uninstall.sh PREFIX=/opt/two >/dev/null && echo "two is removed"
      ls /opt/two/bin/imgfuse /sbin/umount.fuse.imgfuse 2>/dev/null || echo "and its helper"
      $S/uninstall.sh PREFIX=/opt/one 2>&1 || echo "code $?"
      $S/install.sh PREFIX=/opt/one 2>&1 || echo "code $?"
      /opt/one/bin/imgfuse -V
      $S/uninstall.sh --force PREFIX=/opt/one >/dev/null && echo "one is removed"
      umount -i $M
    `);
    expect(result.stderr).toBe('');
    const refusal = (what: string): RegExp =>
      new RegExp(
        `${what} would take the program from under this mount; unmount it first \\(imgfuse unmount DIR\\), or add --force:\n` +
          `imgfuse mount ${bench.path('a.qed')} ${bench.path('mnt')} \\(process \\d+\\)\ncode 1`,
      );
    expect(result.stdout).toMatch(/^two is removed\nand its helper$/m);
    expect(result.stdout).toMatch(refusal('uninstall.sh: removing it'));
    expect(result.stdout).toMatch(refusal('install.sh: installing over it'));
    expect(result.stdout).toMatch(/^0\.\d+\.\d+\none is removed$/m);
    expect(result.code).toBe(0);
  });

  it('by somebody who may not write the helpers is refused before anything is written', () => {
    const prefix = bench.path('mine');
    mkdirSync(prefix, { mode: 0o777 });
    const script = `chmod 777 ${prefix}; exec setpriv --reuid ${NOBODY} --regid ${NOBODY} --clear-groups`;
    const result = bench.run('sh', ['-c', `${script} ${ROOT}/scripts/install.sh PREFIX=${prefix}`]);
    expect(result.stderr).toMatch(
      /sbin cannot be written: run this as root, or add SBINDIR= to do without the helpers/,
    );
    expect(result.code).toBe(1);
    expect(readdirSync(prefix)).toEqual([]);
  });

  it.each([
    ['PREFIX=relative', /PREFIX must be an absolute path \(got relative\)/],
    ['SBINDIR=relative', /SBINDIR must be an absolute path, or empty/],
    ["PREFIX=/a'b", /may have no spaces, quotes/],
    ['PREFIX=/a b', /may have no spaces, quotes/],
    ['--frob', /there is no argument --frob; it takes PREFIX=DIR/],
  ])('"%s" is refused by both scripts', (argument, sentence) => {
    for (const script of ['install.sh', 'uninstall.sh']) {
      const result = bench.run(`${ROOT}/scripts/${script}`, [argument, `DESTDIR=${bench.path('stage')}`]);
      expect(result.stderr).toMatch(sentence);
      expect(result.code).toBe(1);
      expect(existsSync(bench.path('stage'))).toBe(false);
    }
  });
});
