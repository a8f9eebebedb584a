// Where the password of an encrypted image comes from, through the command line: a file, the environment, standard input, the
// terminal; what is refused leaves every byte as it was, and nobody can read a password off a mount process.

import { chmodSync, readFileSync, writeFileSync } from 'node:fs';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { fingerprints } from '../support/image-files.ts';
import { hasQemu, tryQemu } from '../support/qemu.ts';
import { canMountAsRoot, hasCommand, requireOrSkip } from '../support/requirements.ts';
import { Bench, CLI, type Result } from './cli-harness.ts';

const PASSWORD = 'correct horse';
const SIZE = '4M';

let bench: Bench;
let image: string;
let key: string;

beforeEach(() => {
  bench = new Bench();
  image = bench.path('disk.qcow2');
  key = bench.path('key');
  writeFileSync(key, PASSWORD);
});
afterEach(() => bench.cleanUp());

function create(): void {
  const options = 'encrypt.format=luks,encrypt.iter-time=20';
  const made = bench.imgfuse('create', '-f', 'qcow2', '-o', options, '--key-file', key, image, SIZE);
  expect(made).toMatchObject({ code: 0, stderr: '' });
  expect(made.stdout).not.toContain(PASSWORD);
}

/** Types at a terminal of its own. */
function typed(answers: readonly string[], ...parameters: readonly string[]): Result {
  const command = [process.execPath, CLI, ...parameters].map((word) => `'${word}'`).join(' ');
  const lines = answers.map((answer) => `sleep 1.5; echo '${answer}'`).join('; ');
  return bench.run('sh', ['-c', `(${lines}; sleep 1.5) | script -qec "${command}" /dev/null`]);
}

/** Without a terminal. */
function detached(...parameters: readonly string[]): Result {
  return bench.run('setsid', ['-w', process.execPath, CLI, ...parameters]);
}

describe('the password of an encrypted image', () => {
  test('opens what was made here in QEMU, and what QEMU wrote is read here', (context) => {
    requireOrSkip(context, hasQemu, 'qemu-io');
    create();
    const options = `driver=qcow2,file.filename=${image},encrypt.key-secret=s`;
    const secret = ['--object', `secret,id=s,file=${key}`, '--image-opts', options];
    expect(tryQemu('qemu-io', ...secret, '-c', 'read -P 0 0 4M', '-c', 'write -P 7 70000 3000').output).not.toMatch(
      /error|mismatch|failed/i,
    );
    expect(bench.imgfuse('map', image, '--key-file', key).stdout).toContain('0x10000');
    expect(tryQemu('qemu-img', 'check', ...secret).code).toBe(0);
  });

  test('comes from a variable or from standard input as well', () => {
    create();
    expect(bench.runCli(['map', image, '--key-env', 'DISK_KEY'], { DISK_KEY: PASSWORD }).code).toBe(0);
    const piped = bench.run(process.execPath, [CLI, 'map', image, '--key-file', '-'], { input: PASSWORD });
    expect(piped.code).toBe(0);
    expect(bench.imgfuse('resize', image, '+1M', '--key-file', key)).toMatchObject({ code: 0 });
    expect(bench.imgfuse('info', image)).toMatchObject({ code: 0, stderr: '' });
    expect(bench.imgfuse('check', image)).toMatchObject({ code: 0, stderr: '' });
  });

  test('is asked for at the terminal without an echo, twice for a new image', (context) => {
    requireOrSkip(context, hasCommand('script'), 'script (util-linux)');
    const made = typed(
      [PASSWORD, PASSWORD],
      ...['create', '-f', 'qcow2', '-o', 'encrypt.format=luks,encrypt.iter-time=20', image, SIZE],
    );
    expect(made.stdout).toContain('Password of');
    expect(made.stdout).not.toContain(PASSWORD);
    expect(bench.imgfuse('map', image, '--key-file', key).code).toBe(0);
    expect(typed([PASSWORD], 'map', image).code).toBe(0);
    const other = bench.path('other.qcow2');
    const refused = typed(
      [PASSWORD, 'something else'],
      'create',
      '-f',
      'qcow2',
      '-o',
      'encrypt.format=luks',
      other,
      SIZE,
    );
    expect(refused.stdout).toContain('the two passwords differ');
    expect(Object.keys(fingerprints(bench.directory))).not.toContain('other.qcow2');
  });

  test('is refused when it is wrong, missing, empty or named twice, before a byte is changed', () => {
    create();
    const mountpoint = bench.makeDirectory('mnt');
    writeFileSync(bench.path('wrong'), `${PASSWORD}\n`);
    writeFileSync(bench.path('empty'), '');
    chmodSync(image, 0o600);
    const before = fingerprints(bench.directory);
    const refused = (words: string, ...parameters: string[]): void => {
      for (const command of [
        ['mount', image, mountpoint],
        ['resize', image, '+1M'],
        ['map', image],
      ]) {
        const result = detached(...command, ...parameters);
        expect([1, 32], command[0]).toContain(result.code);
        expect(result.stderr).toContain(words);
        expect(result.stderr.trimEnd().split('\n')).toHaveLength(1);
        expect(result.stderr).not.toContain(PASSWORD);
      }
      expect(fingerprints(bench.directory)).toEqual(before);
    };
    refused('the password is wrong', '--key-file', bench.path('wrong'));
    refused('give it with --key-file FILE or --key-env VARIABLE');
    refused('is empty', '--key-file', bench.path('empty'));
    refused('cannot be read', '--key-file', bench.path('nothing'));
    refused('NO_SUCH_KEY of --key-env is not set', '--key-env', 'NO_SUCH_KEY');
    refused('exclude each other', '--key-file', key, '--key-env', 'NO_SUCH_KEY');
  });
});

describe('a mount of an encrypted image', () => {
  test.for(['file', 'variable', 'terminal'])('with the password from a %s shows it to nobody', (source, context) => {
    requireOrSkip(context, canMountAsRoot(), 'root and /dev/fuse');
    requireOrSkip(context, source !== 'terminal' || hasCommand('script'), 'script (util-linux)');
    create();
    const mountpoint = bench.makeDirectory('mnt');
    const mounted =
      source === 'file'
        ? bench.imgfuse('mount', image, mountpoint, '-o', `key_file=${key}`)
        : source === 'variable'
          ? bench.runCli(['mount', image, mountpoint, '-o', 'key_env=DISK_KEY'], { DISK_KEY: PASSWORD })
          : typed([PASSWORD], 'mount', image, mountpoint);
    expect(mounted.code, `${mounted.stdout}${mounted.stderr}`).toBe(0);
    const pid = bench.daemonPid();
    expect(readFileSync(`/proc/${pid}/cmdline`, 'latin1')).not.toContain(PASSWORD);
    expect(readFileSync(`/proc/${pid}/environ`, 'latin1')).not.toContain(PASSWORD);
    bench.run('dd', [`of=${mountpoint}/disk.raw`, 'conv=notrunc,fsync'], { input: 'secret text' });
    expect(readFileSync(`${mountpoint}/disk.raw`).subarray(0, 11).toString()).toBe('secret text');
    expect(readFileSync(image).includes('secret text')).toBe(false);
    expect(bench.imgfuse('unmount', mountpoint)).toMatchObject({ code: 0 });
    expect(bench.imgfuse('check', image)).toMatchObject({ code: 0 });
  });
});
