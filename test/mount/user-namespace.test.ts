// Root of a user namespace (unshare -Urm, rootless containers), who is an ordinary user outside: /run is not theirs, and the
// runtime directory is one that they can make.

import { chmodSync, chownSync, existsSync, mkdirSync, readdirSync, rmSync, statSync } from 'node:fs';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { canMountAsRoot, hasCommand, requireOrSkip } from '../support/requirements.ts';
import { Bench, CLI, NOBODY, type Result } from './cli-harness.ts';

/** what nobody gets when there is no session */
const TEMPORARY = `/tmp/imgfuse-${NOBODY}`;

let bench: Bench;
let wasThere: boolean;

beforeEach((context) => {
  const commands = ['unshare', 'setpriv', 'mknod'];
  requireOrSkip(context, canMountAsRoot() && commands.every(hasCommand), `root, /dev/fuse and ${commands.join(', ')}`);
  bench = new Bench();
  const home = bench.makeDirectory('home');
  mkdirSync(`${home}/mnt`);
  for (const path of [home, `${home}/mnt`]) chownSync(path, NOBODY, NOBODY);
  wasThere = existsSync(TEMPORARY);
});
afterEach(() => {
  bench?.cleanUp();
  if (wasThere) chmodSync(TEMPORARY, 0o700);
  else rmSync(TEMPORARY, { recursive: true, force: true });
});

/** Runs a script as root of a user namespace that nobody has made. */
function asRootOfNamespace(script: string): Result {
  return bench.runAsNobody(`
    cd ${bench.path('home')}
    unset IMGFUSE_RUNTIME_DIR XDG_RUNTIME_DIR
    export TMPDIR=$PWD
    cat > inside <<EOF
${script.replaceAll('imgfuse', `${process.execPath} ${CLI}`)}
EOF
    unshare --user --map-root-user --mount sh -eu inside
  `);
}

const CYCLE = `
  rm -f a.qcow2
  imgfuse create -q -f qcow2 a.qcow2 8M
  imgfuse mount a.qcow2 mnt
  head -c 100 /dev/urandom | dd of=mnt/disk.raw conv=notrunc status=none
  imgfuse status mnt
  imgfuse unmount mnt
  imgfuse info --output=json a.qcow2
`;

it('mounts with the runtime directory of the user outside', () => {
  const result = asRootOfNamespace(CYCLE);
  expect(result).toMatchObject({ code: 0, stderr: '' });
  expect(result.stdout).toMatch(/^state: +mounted$/m);
  expect(result.stdout).toContain('"dirty-flag": false');
  expect(readdirSync(bench.path('home')).sort()).toEqual(['a.qcow2', 'inside', 'mnt']);
  expect(statSync(TEMPORARY)).toMatchObject({ uid: NOBODY });
});

it('mounts with a directory of its own when that one cannot be trusted', () => {
  mkdirSync(TEMPORARY, { recursive: true });
  chmodSync(TEMPORARY, 0o755);
  const before = readdirSync(TEMPORARY);
  for (let times = 0; times < 2; times++) expect(asRootOfNamespace(CYCLE)).toMatchObject({ code: 0, stderr: '' });
  const spare = readdirSync(bench.path('home')).filter((name) => name.startsWith('imgfuse-'));
  // the second mount has found what the first one made
  expect(spare).toEqual([expect.stringMatching(/^imgfuse-0-\w{6}$/)]);
  const { uid, mode } = statSync(bench.path(`home/${spare[0]}`));
  expect([uid, mode & 0o777]).toEqual([NOBODY, 0o700]);
  expect(readdirSync(TEMPORARY)).toEqual(before);
});
