// install.sh and uninstall.sh for real, with mount(8), fstab and umount(8) on top: in a mount namespace of its own whose
// /usr and /etc are overlays, so that nothing of the machine changes.

import { existsSync, lstatSync, mkdirSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { canMountAsRoot, hasCommand, requireOrSkip } from '../support/requirements.ts';
import { Bench, type Result } from './cli-harness.ts';

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
});
