// `imgfuse attach IMAGE -- COMMAND`: the command runs in the guest's files, its exit code is ours, and the image is closed clean
// when it has ended, whatever ends it.

import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { loopsUnder } from '../support/attach-run.ts';
import { makeGuestDisk, run } from '../support/guest-images.ts';
import { canMountAsRoot, hasCommand, requireOrSkip } from '../support/requirements.ts';
import { Bench, CLI, exitOf, mountsUnder, until } from './cli-harness.ts';

const TOOLS = ['sfdisk', 'losetup', 'mkfs.ext4', 'qemu-img', 'script'];

let bench: Bench;
let image: string;
beforeEach((context) => {
  requireOrSkip(context, canMountAsRoot() && TOOLS.every(hasCommand), `root, /dev/fuse, ${TOOLS.join(', ')}`);
  bench = new Bench();
  const raw = bench.path('disk.img');
  makeGuestDisk(raw, 'dos', [{ mib: 16, make: ['mkfs.ext4', '-q', '-F'] }]);
  image = bench.path('disk.qcow2');
  run('qemu-img', ['convert', '-f', 'raw', '-O', 'qcow2', raw, image]);
});
afterEach(() => bench.cleanUp());

function assertNothingLeft(): void {
  const left = [...mountsUnder(bench.directory), ...loopsUnder(bench.directory), ...bench.runtimeFiles()];
  expect(left).toEqual([]);
  run('qemu-img', ['check', '-q', image]);
}

test('runs in the directory, with its places in the environment, and without one makes a directory for it', () => {
  const guest = bench.makeDirectory('guest');
  const script =
    'pwd; echo "$IMGFUSE_DIR"; echo "$IMGFUSE_IMAGE"; echo "$IMGFUSE_PARTITION"; test -f "$IMGFUSE_DISK"; ls';
  const there = bench.imgfuse('attach', image, guest, '--', 'sh', '-euc', script);
  expect(there.stdout.split('\n')).toEqual([guest, guest, image, '1', 'lost+found', '']);
  const made = bench.imgfuse('attach', image, '--', 'sh', '-euc', script);
  expect(made.stdout).toMatch(/\/attached\/disk\.qcow2-\d+-[0-9a-f]{4}\/files\n/);
  expect(made.code).toBe(0);
  assertNothingLeft();
});

test.each([
  ['its exit code', ['sh', '-c', 'exit 7'], 7, ''],
  ['128 and the number of the signal that ended it', ['sh', '-c', 'kill -KILL $$'], 137, ''],
  ['127 for a command that is not there', ['no-such-program'], 127, 'no-such-program cannot be run: there is no such'],
  ['126 for a file that is no program', ['/etc/passwd'], 126, '/etc/passwd cannot be run: it is no program'],
])('ends with %s', (_, command, code, sentence) => {
  const ended = bench.imgfuse('attach', image, '--', ...command);
  expect(ended.code).toBe(code);
  if (sentence === '') expect(ended.stderr).toBe('');
  else expect(ended.stderr).toContain(sentence);
  assertNothingLeft();
});

test('does not take an option of the command for one of its own', () => {
  const { code, stdout } = bench.imgfuse('attach', image, '--', 'echo', '--help', '-o', 'ro', '--');
  expect(stdout).toBe('--help -o ro --\n');
  expect(code).toBe(0);
  expect(bench.imgfuse('attach', image, '--').stderr).toContain('no COMMAND follows "--"');
  assertNothingLeft();
});

describe('a signal', () => {
  /** Writes what it gets, and ends when it is told to. */
  const LISTENER =
    'trap "echo TERM >>$LOG; exit 3" TERM; trap "echo INT >>$LOG; exit 4" INT; trap "echo HUP >>$LOG; exit 5" HUP; ' +
    'echo ready >>$LOG; while :; do sleep 0.05; done';

  test.each([
    ['SIGTERM', 'TERM', 3],
    ['SIGINT', 'INT', 4],
    ['SIGHUP', 'HUP', 5],
  ] as const)('%s is passed on to the command, and the image is closed when it has ended', async (signal, name, code) => {
    const log = bench.path('log');
    const child = bench.start('attach', image, '--', 'env', `LOG=${log}`, 'sh', '-c', LISTENER);
    await until(() => existsSync(log), 'the command runs');
    child.kill(signal);
    expect(await exitOf(child), child.output()).toBe(code);
    expect(readFileSync(log, 'utf8')).toBe(`ready\n${name}\n`);
    assertNothingLeft();
  });

  test('of a terminal reaches the command once', async () => {
    const log = bench.path('log');
    const quoted = LISTENER.replaceAll('$LOG', log).replaceAll('exit 4', 'true').replaceAll("'", '');
    writeFileSync(
      bench.path('listener'),
      `${quoted.replace('while :; do sleep 0.05; done', 'sleep 1; sleep 1; exit 0')}\n`,
    );
    // a shell that stays between would end by the signal itself
    const line = `exec ${process.execPath} ${CLI} attach ${image} -- sh ${bench.path('listener')}`;
    const typing = `until [ -e ${log} ]; do sleep 0.05; done; sleep 0.2; printf '\\003'; sleep 3`;
    const { code, stdout } = bench.run('sh', [
      '-c',
      `{ ${typing}; } | script --quiet --return --command '${line}' /dev/null`,
    ]);
    expect(code, stdout).toBe(0);
    expect(readFileSync(log, 'utf8')).toBe('ready\nINT\n');
    assertNothingLeft();
  });

  test.each([
    'SIGINT',
    'SIGTERM',
    'SIGHUP',
    'SIGQUIT',
    'SIGUSR1',
  ] as const)('%s before the command runs takes everything back', async (signal) => {
    const child = bench.start('attach', image, '--', 'touch', bench.path('ran'));
    await until(() => bench.allRecords().length > 0 || child.exitCode !== null, 'the image is being opened');
    child.kill(signal);
    const end = await exitOf(child);
    const numbers = { SIGINT: 130, SIGTERM: 143, SIGHUP: 129, SIGQUIT: 131, SIGUSR1: 138 };
    expect(end, child.output()).toBe(numbers[signal]);
    expect(child.output()).toContain(`interrupted by ${signal}`);
    expect(existsSync(bench.path('ran'))).toBe(false);
    assertNothingLeft();
  });
});

test('says what remains, with exit code 32, when the command leaves something that uses the files', async () => {
  const script = 'sleep 60 >/dev/null 2>&1 </dev/null & echo $!';
  const { code, stdout, stderr } = bench.imgfuse('attach', image, '--', 'sh', '-c', script);
  const sleeper = Number(stdout);
  try {
    expect(code).toBe(32);
    expect(stderr).toMatch(
      /^imgfuse: the program has ended \(exit code 0\), but \/.* stays mounted: it is in use by process/,
    );
    expect(stderr).toContain(`process ${sleeper} (sleep)`);
  } finally {
    process.kill(sleeper);
  }
  expect(bench.imgfuse('detach', image).code).toBe(0);
  assertNothingLeft();
});

test('two programs read the same image side by side, and a writer is refused meanwhile', async () => {
  const go = bench.path('go');
  const wait = ['sh', '-c', `until [ -e ${go} ]; do sleep 0.05; done; ls`];
  const first = bench.start('attach', '-r', image, '--', ...wait);
  const second = bench.start('attach', '-r', image, '--', ...wait);
  await until(() => mountsUnder(bench.directory).length === 4, 'both are attached');
  const writer = bench.imgfuse('attach', image);
  expect(writer.code).toBe(32);
  expect(writer.stderr).toMatch(/is attached already at .* by process \d+, which runs a program there/);
  expect(bench.imgfuse('detach', image).code).toBe(1);
  mkdirSync(go);
  expect([await exitOf(first), await exitOf(second)]).toEqual([0, 0]);
  expect(first.output()).toBe('lost+found\n');
  assertNothingLeft();
});
