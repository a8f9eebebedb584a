// Bad input to mount and unmount: one sentence on stderr, the exit code of mount(8), nothing mounted, no byte changed.
// And a create that is interrupted: nothing made.

import { createHash } from 'node:crypto';
import { mkdtempSync, readdirSync, readFileSync, readlinkSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { canMountAsRoot, requireOrSkip } from '../support/requirements.ts';
import { Bench, exitOf, lines, mountsUnder, until } from './cli-harness.ts';

let bench: Bench;
beforeEach(() => {
  bench = new Bench();
});
afterEach(() => bench.cleanUp());

function hash(path: string): string {
  return createHash('sha256').update(readFileSync(path)).digest('hex');
}

interface BadInput {
  readonly title: string;
  readonly parameters: readonly string[];
  readonly code: number;
  readonly sentence: RegExp;
}

const CASES: readonly BadInput[] = [
  { title: 'no arguments', parameters: [], code: 1, sentence: /a command is needed.*--help/ },
  {
    title: 'an unknown command',
    parameters: ['frobnicate'],
    code: 1,
    sentence: /unknown command "frobnicate".*--help/,
  },
  {
    title: 'a mistyped command',
    parameters: ['chek', 'a.qed'],
    code: 1,
    sentence: /unknown command "chek"; did you mean "check"\?$/m,
  },
  {
    title: 'a missing mountpoint argument',
    parameters: ['mount', 'a.qed'],
    code: 1,
    sentence: /the MOUNTPOINT is missing: imgfuse mount IMAGE MOUNTPOINT; .*mount --help/,
  },
  {
    title: 'too many arguments',
    parameters: ['mount', 'a.qed', 'mnt', 'x'],
    code: 1,
    sentence: /"x" is one argument too many/,
  },
  {
    title: 'an unknown option',
    parameters: ['mount', 'a.qed', 'mnt', '--frob'],
    code: 1,
    sentence: /mount has no option --frob/,
  },
  {
    title: 'an unknown mount option',
    parameters: ['a.qed', 'mnt', '-o', 'rw,frob'],
    code: 1,
    sentence: /no mount option "frob"/,
  },
  {
    title: 'a refused mount option',
    parameters: ['a.qed', 'mnt', '-oauto_unmount'],
    code: 1,
    sentence: /auto_unmount is not offered/,
  },
  {
    title: 'a bad number of workers',
    parameters: ['mount', 'a.qed', 'mnt', '--workers', '0'],
    code: 1,
    sentence: /"0" is no value for workers/,
  },
  {
    title: 'a bad transport',
    parameters: ['mount', 'a.qed', 'mnt', '--transport=x'],
    code: 1,
    sentence: /--transport is "x", but must be auto, kernel or fuse-native/,
  },
  {
    title: 'an unknown format',
    parameters: ['mount', 'a.qed', 'mnt', '--format', 'floppy'],
    code: 1,
    sentence: /unknown format 'floppy'/,
  },
  {
    title: 'a missing image',
    parameters: ['mount', './nope.qed', 'mnt'],
    code: 32,
    sentence: /nope\.qed does not exist/,
  },
  {
    title: 'a missing mountpoint',
    parameters: ['mount', 'a.qed', 'nope'],
    code: 32,
    sentence: /mountpoint .*nope does not exist; make it: mkdir/,
  },
  {
    title: 'a symbolic link as mountpoint',
    parameters: ['mount', 'a.qed', 'link'],
    code: 1,
    sentence: /link is a symbolic link; mount on .*mnt itself/,
  },
  { title: 'a directory as image', parameters: ['mount', './mnt', 'mnt'], code: 1, sentence: /mnt/ },
  {
    title: 'not an image of the named format',
    parameters: ['mount', 'junk', 'mnt', '--format', 'qed'],
    code: 32,
    sentence: /junk/,
  },
  {
    title: 'unmount of what is not mounted',
    parameters: ['unmount', 'mnt'],
    code: 32,
    sentence: /mnt is not mounted by imgfuse/,
  },
  {
    title: 'status of what is not mounted',
    parameters: ['status', 'mnt'],
    code: 1,
    sentence: /mnt is not mounted by imgfuse/,
  },
];

describe('bad input', () => {
  for (const { title, parameters, code, sentence } of CASES) {
    it(`${title}: one sentence, exit code ${code}, nothing mounted or changed`, (context) => {
      requireOrSkip(context, canMountAsRoot(), 'root and /dev/fuse');
      bench.imgfuse('create', '-f', 'qed', 'a.qed', '8M');
      writeFileSync(bench.path('junk'), 'this is not an image'.repeat(1000));
      bench.makeDirectory('mnt');
      symlinkSync('mnt', bench.path('link'));
      const before = [hash(bench.path('a.qed')), hash(bench.path('junk'))];

      const result = bench.imgfuse(...parameters);

      expect(lines(result.stderr)).toHaveLength(1);
      expect(result.stderr).toMatch(sentence);
      expect(result.stderr).toMatch(/^imgfuse: /);
      expect(result.code).toBe(code);
      expect(result.stdout).toBe('');
      expect(mountsUnder(bench.directory)).toEqual([]);
      expect([hash(bench.path('a.qed')), hash(bench.path('junk'))]).toEqual(before);
      expect(bench.runtimeFiles()).toEqual([]);
    });
  }

  it('a second mount on the same mountpoint is refused and the first goes on', (context) => {
    requireOrSkip(context, canMountAsRoot(), 'root and /dev/fuse');
    bench.makeDirectory('mnt');
    for (const name of ['a.qed', 'b.qed']) bench.imgfuse('create', '-f', 'qed', name, '8M');
    expect(bench.imgfuse('mount', 'a.qed', 'mnt').code).toBe(0);
    const second = bench.imgfuse('mount', 'b.qed', 'mnt');
    expect(second.code).toBe(32);
    expect(second.stderr).toMatch(/mounted already .*a\.qed.*"imgfuse unmount .*mnt" frees it/);
    expect(readdirSync(bench.path('mnt'))).toContain('disk.raw');
    expect(bench.imgfuse('unmount', 'mnt').code).toBe(0);
  });

  it('an image that imgfuse has mounted read-write is not mounted a second time', (context) => {
    requireOrSkip(context, canMountAsRoot(), 'root and /dev/fuse');
    for (const name of ['mnt', 'other']) bench.makeDirectory(name);
    bench.imgfuse('create', '-f', 'qed', 'a.qed', '8M');
    expect(bench.imgfuse('mount', 'a.qed', 'mnt').code).toBe(0);
    const second = bench.imgfuse('mount', 'a.qed', 'other');
    expect(second.code).toBe(32);
    expect(lines(second.stderr)).toHaveLength(1);
    expect(second.stderr).toMatch(/a\.qed is in use by imgfuse \(process \d+\)/);
    expect(bench.imgfuse('unmount', 'a.qed').code).toBe(0);
  });
});

/** Whether a process has an open file in a directory that has no name there. */
function hasUnnamedFile(pid: number, directory: string): boolean {
  const names = readdirSync(`/proc/${pid}/fd`).map((fd) => {
    try {
      return readlinkSync(`/proc/${pid}/fd/${fd}`);
    } catch {
      return '';
    }
  });
  return names.some((name) => name.startsWith(`${directory}/#`));
}

describe('a create that is interrupted', () => {
  it.each(['SIGINT', 'SIGTERM', 'SIGKILL'] as const)('by %s leaves nothing', async (signal) => {
    // a tmpfs has files without names on every Linux; the long key derivation writes nothing
    const directory = mkdtempSync('/dev/shm/imgfuse-create-');
    try {
      writeFileSync(bench.path('key'), 'secret');
      const options = 'encrypt.format=luks,encrypt.iter-time=60000,data_file=data';
      const parameters = ['create', '-f', 'qcow2', '-o', options, '--key-file', bench.path('key')];
      const child = bench.start(...parameters, `${directory}/a.qcow2`, '1G');
      await until(() => hasUnnamedFile(child.pid!, directory), 'the creation');
      child.kill(signal);
      expect(await exitOf(child)).toBe(signal);
      expect(readdirSync(directory)).toEqual([]);
    } finally {
      rmSync(directory, { recursive: true });
    }
  });
});
