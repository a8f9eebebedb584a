// Where the output goes: readers that are gone or slow, a full disk, and a terminal. A report that got lost is a failure, but no
// mount is.

import { closeSync, existsSync, openSync, readFileSync, renameSync, writeSync } from 'node:fs';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { canMountAsRoot, requireOrSkip } from '../support/requirements.ts';
import { Bench, CLI, exitOf, isRunning, lines, type Result, until } from './cli-harness.ts';

let bench: Bench;

beforeEach((context) => {
  requireOrSkip(context, canMountAsRoot(), 'root and /dev/fuse');
  bench = new Bench();
  bench.makeDirectory('mnt');
  bench.imgfuse('create', '-q', '-f', 'qed', 'a.qed', '8M');
});
afterEach(() => bench?.cleanUp());

/** Runs a line of bash in which "imgfuse" is the program; its exit code is that of the first command of a pipeline. */
function shell(line: string): Result {
  const program = `imgfuse() { '${process.execPath}' '${CLI}' "$@"; }`;
  return bench.run('bash', ['-c', `${program}\n${line}\nexit "\${PIPESTATUS[0]}"`]);
}

describe('a report', () => {
  it.each(['info a.qed', 'map a.qed', 'check a.qed', 'status'])('"%s" to a full disk fails and says so', (command) => {
    const result = shell(`imgfuse ${command} >/dev/full`);
    expect(lines(result.stderr)).toEqual([expect.stringMatching(/standard output cannot be written: ENOSPC/)]);
    expect(result.code).toBe(1);
  });

  it.each([
    'info a.qed',
    'map a.qed',
    'check a.qed',
    'status',
  ])('"%s" to a reader that has gone ends quietly', (command) => {
    expect(shell(`imgfuse ${command} | true`)).toEqual({ code: 0, stdout: '', stderr: '' });
  });

  it.each(['--help', 'help mount', 'check --help', '--version', 'completion'])('"%s" is one, too', (command) => {
    const full = shell(`imgfuse ${command} >/dev/full`);
    expect(lines(full.stderr)).toEqual([expect.stringMatching(/standard output cannot be written: ENOSPC/)]);
    expect(full.code).toBe(1);
    expect(shell(`imgfuse ${command} | true`)).toEqual({ code: 0, stdout: '', stderr: '' });
    const whole = bench.imgfuse(...command.split(' ')).stdout;
    expect(shell(`imgfuse ${command} | (sleep 1; cat)`).stdout).toBe(whole);
  });

  it('of corruption keeps its exit code when it cannot be written', () => {
    const fd = openSync(bench.path('a.qed'), 'r+');
    writeSync(fd, Buffer.from([99]), 0, 1, 65536);
    closeSync(fd);
    expect(shell('imgfuse check a.qed').code).toBe(2);
    expect(shell('imgfuse check a.qed >/dev/full').code).toBe(2);
  });

  it('is whole for a reader that is slow', () => {
    const fd = openSync(bench.path('a.raw'), 'w');
    for (let block = 0; block < 3000; block += 2) writeSync(fd, Buffer.alloc(4096, 1), 0, 4096, block * 4096);
    closeSync(fd);
    const command = 'imgfuse map -f raw --output=json a.raw';
    const { stdout } = shell(`${command} | (sleep 1; cat)`);
    expect(stdout.length).toBeGreaterThan(100_000);
    expect(stdout).toBe(bench.imgfuse('map', '-f', 'raw', '--output=json', 'a.raw').stdout);
  });
});

describe('a mount', () => {
  it.each([
    '--output=json a.qed mnt | true',
    '--output=json a.qed mnt >/dev/full',
    '--no-lock a.qed mnt 2>&1 | true',
    '--no-lock --output=json a.qed mnt >/dev/full 2>&1',
  ])('"%s" succeeds and goes on', (rest) => {
    expect(shell(`imgfuse mount ${rest}`)).toMatchObject({ code: 0, stdout: '' });
    expect(isRunning(bench.daemonPid())).toBe(true);
    expect(existsSync(bench.path('mnt/disk.raw'))).toBe(true);
    const { code, stderr } = shell('imgfuse unmount --output=json mnt >/dev/full');
    expect(stderr).toMatch(/standard output cannot be written/);
    expect(code).toBe(0);
  });

  it('in the foreground serves on when nobody reads what it prints, and closes clean', async () => {
    const child = bench.start('mount', '-d', '--no-lock', '--output=json', 'a.qed', 'mnt');
    child.stdout?.destroy();
    child.stderr?.destroy();
    await until(() => bench.records().length === 1 && existsSync(bench.path('mnt/disk.raw')), 'the mount');
    expect(readFileSync(bench.path('mnt/disk.raw')).length).toBe(8 * 2 ** 20);
    expect(bench.imgfuse('unmount', 'mnt').code).toBe(0);
    expect(await exitOf(child)).toBe(0);
  });
});

describe('a terminal', () => {
  /** What a command writes to a terminal of this width, line by line. */
  function onTerminal(columns: number, command: string): string[] {
    const line = `stty columns ${columns}; '${process.execPath}' '${CLI}' ${command}`;
    return bench.run('script', ['-qec', line, '/dev/null']).stdout.split(/\r?\n/);
  }
  const longest = (text: readonly string[]): number => Math.max(...text.map((line) => line.length));

  it.each([30, 60, 80, 110])('of %i columns is filled by the help, and never overflows', (columns) => {
    for (const command of ['--help', 'mount --help', 'create --help', 'check --help']) {
      const text = onTerminal(columns, command);
      expect(longest(text), command).toBeLessThanOrEqual(columns);
      expect(longest(text), command).toBeGreaterThan(columns - 10);
    }
  });

  it('that is very wide gets lines that can still be read, and a pager those of its terminal', () => {
    expect(longest(onTerminal(200, 'mount --help'))).toBe(120);
    expect(longest(onTerminal(60, 'mount --help | cat'))).toBe(60);
    expect(longest(bench.imgfuse('mount', '--help').stdout.split('\n'))).toBe(80);
  });

  it('that is narrow is not overflown by the progress of a check', () => {
    bench.imgfuse('create', '-q', '-f', 'qcow2', '-o', 'preallocation=metadata', 'b.qcow2', '8M');
    for (const columns of [8, 20, 30, 80]) {
      const pieces = onTerminal(columns, 'check b.qcow2').flatMap((line) => line.replaceAll('\x1b[K', '').split('\r'));
      const drawn = pieces.filter((piece) => /\d%$/.test(piece));
      expect(drawn.length).toBeGreaterThan(0);
      expect(longest(drawn)).toBeLessThan(columns);
    }
  });
});

describe('a name with a line end and an escape sequence in it', () => {
  it('breaks no table and no sentence, and JSON has it exactly', () => {
    const name = 'x\n_dev_sda1  \x1b[31m';
    const shown = 'x\\012_dev_sda1  \\033[31m';
    renameSync(bench.path('a.qed'), bench.path(name));
    bench.makeDirectory(`m${name}`);
    const mountpoint = bench.path(`m${name}`);
    expect(bench.imgfuse('mount', name, mountpoint).code).toBe(0);
    const table = bench.imgfuse('status').stdout;
    expect(table).not.toContain('\x1b');
    expect(lines(table).filter((line) => line.includes(bench.directory))).toEqual([expect.stringContaining(shown)]);
    expect(JSON.parse(bench.imgfuse('status', '--output=json', mountpoint).stdout)).toMatchObject([
      { mountpoint, image: bench.path(name) },
    ]);
    expect(lines(bench.imgfuse('mount', name, mountpoint).stderr)).toEqual([expect.stringContaining('\\012')]);
    expect(bench.imgfuse('unmount', mountpoint)).toEqual({ code: 0, stdout: '', stderr: '' });
    expect(bench.imgfuse('info', name).stdout.split('\n')[0]).toBe(`image: ${shown}`);
  });
});
