// Where the connection cannot be aborted (an ordinary user without fusectl): a busy mount that is told to end waits for its
// users, and closes without them when it is told again.

import { chmodSync, chownSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { canMountAsRoot, hasCommand, requireOrSkip } from '../support/requirements.ts';
import { Bench, CLI, NOBODY } from './cli-harness.ts';

let bench: Bench;
let home = '';

beforeEach((context) => {
  const commands = ['fusermount3', 'setpriv', 'unshare', 'mknod'];
  requireOrSkip(context, canMountAsRoot() && commands.every(hasCommand), `root, /dev/fuse and ${commands.join(', ')}`);
  bench = new Bench();
  home = bench.makeDirectory('home');
  mkdirSync(join(home, 'mnt'));
  for (const path of [home, join(home, 'mnt'), bench.runtime]) chownSync(path, NOBODY, NOBODY);
});
afterEach(() => bench?.cleanUp());

/** Throws on SIGUSR2, as a bug of ours would. */
const BUG = `--import=data:text/javascript,process.on("SIGUSR2",()=>{throw(new(Error)("made-up"))})`;

/** What the scripts share: a mount in the foreground that holds data, and a user that keeps its file open. */
const PRELUDE = `
says() { for i in $(seq 200); do grep -q "$1" log && return; sleep 0.05; done; echo "the log lacks: $1"; cat log; exit 9; }
imgfuse create -q -f qed u.qed 8M
: >log
node "$BUG" "$CLI" mount -f u.qed mnt 2>log & mount=$!
says "is mounted at"
printf hello | dd of=mnt/disk.raw bs=64k seek=3 conv=notrunc status=none
sleep 20 <mnt/disk.raw >opened 2>&1 & user=$!
for i in $(seq 200); do test -e opened && break; sleep 0.05; done
`;

/** What they end with: the image is clean and holds what was written. */
const EPILOGUE = `
imgfuse info --output=json u.qed | grep dirty-flag
imgfuse check -q u.qed && echo checked
imgfuse mount u.qed again -o ro && dd if=again/disk.raw bs=64k skip=3 count=1 status=none | head -c 5 && imgfuse unmount again
`;

/** Runs a shell script as nobody in a mount namespace without fusectl, with a /dev/fuse that everybody may open. */
function asNobody(script: string): string {
  const file = bench.path('script');
  const functions = 'imgfuse() { node "$CLI" "$@"; }';
  writeFileSync(file, `set -eu\n${functions}\ncd ${home}\nmkdir again\n${PRELUDE}\n${script}\n`);
  chmodSync(file, 0o755);
  const node = bench.path('fuse-node');
  const setUp = [
    `mknod ${node} c 10 229 && chmod 666 ${node} && mount --bind ${node} /dev/fuse`,
    'if grep -q " - fusectl " /proc/self/mountinfo; then umount /sys/fs/fuse/connections; fi',
    `exec setpriv --reuid=${NOBODY} --regid=${NOBODY} --clear-groups sh ${file}`,
  ];
  const result = bench.run('unshare', ['--mount', '--propagation', 'private', 'sh', '-c', setUp.join('\n')], {
    env: { ...bench.environment(), CLI, BUG },
  });
  expect(result.stdout).not.toContain('the log lacks');
  // what the shell says of a child that dies by a signal
  const stderr = result.stderr.replaceAll(/^(Killed|Terminated)\n/gm, '');
  expect({ code: result.code, stderr }).toEqual({ code: 0, stderr: '' });
  return result.stdout;
}

describe('a busy mount whose connection cannot be aborted', () => {
  it('waits for its users after SIGTERM, names them, and then closes clean with exit code 0', () => {
    const output = asNobody(`
      kill -TERM $mount
      says "was in use by process .* and has been detached; .*fusectl"
      says "u.qed is closed when the last user ends"
      sleep 0.3; kill -0 $mount && echo waits
      kill $user
      wait $mount && echo "exit code $?"
      grep -o "is closed and clean" log
      ${EPILOGUE}`);
    expect(output).toMatch(/^waits\nexit code 0\nis closed and clean\n.*"dirty-flag": false,?\nchecked\nhello$/);
  });

  it('closes clean without its users at a second SIGTERM, and its exit code says so', () => {
    const output = asNobody(`
      kill -TERM $mount
      says "is closed when the last user ends"
      kill -TERM $mount
      wait $mount && echo "exit code $?"
      grep -o "is closed and clean" log
      kill -0 $user && echo "still used"
      ls ${bench.runtime} | grep -v "^closed$" || true
      kill $user
      ${EPILOGUE}`);
    expect(output).toMatch(/^exit code 0\nis closed and clean\nstill used\n.*"dirty-flag": false,?\nchecked\nhello$/);
  });

  it('closes at a second signal while its users go on writing; what was acknowledged is there', () => {
    const output = asNobody(`
      (exec 4<>mnt/disk.raw; i=0; while printf "block %07d\\n" $i >&4 2>/dev/null; do i=$((i + 1)); echo $i >count; done) 2>/dev/null &
      sleep 0.3
      kill -TERM $mount
      says "is closed when the last user ends"
      sleep 0.2
      kill -INT $mount
      wait $mount && echo "exit code $?"
      grep -o "is closed and clean" log
      kill $user
      sleep 0.3
      imgfuse mount u.qed again -o ro
      count=$(cat count)
      [ "$count" -gt 10 ] && head -c $((count * 14)) again/disk.raw | tail -c 14 | grep -q "block 0*$((count - 1))$" && echo kept
      imgfuse unmount again
      ${EPILOGUE}`);
    expect(output).toMatch(/^exit code 0\nis closed and clean\nkept\n.*"dirty-flag": false,?\nchecked\nhello$/);
  });

  it('ends after an internal error, and what was acknowledged is on disk', () => {
    const output = asNobody(`
      kill -USR2 $mount
      wait $mount || echo "exit code $?"
      grep -o "ends because of an internal error: Error: made-up" log
      grep -o "was not closed clean" log
      kill $user
      wait $user || true
      fusermount3 -u mnt
      imgfuse mount u.qed again 2>/dev/null
      imgfuse unmount again
      ${EPILOGUE}`);
    expect(output).toMatch(
      /^exit code 1\nends because of .*made-up\nwas not closed clean\n.*"dirty-flag": false,?\nchecked\nhello$/,
    );
  });
});
