// How arguments are understood: options that are given twice, names behind --, options in front of the command, relative
// paths that lead nowhere, completion, and that the manual page has every option.

import { readFileSync, renameSync } from 'node:fs';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { canMountAsRoot, requireOrSkip } from '../support/requirements.ts';
import { Bench, CLI, lines, type Result } from './cli-harness.ts';

let bench: Bench;

beforeEach((context) => {
  requireOrSkip(context, canMountAsRoot(), 'root and /dev/fuse');
  bench = new Bench();
  bench.makeDirectory('mnt');
  bench.imgfuse('create', '-q', '-f', 'qed', 'a.qed', '8M');
});
afterEach(() => bench?.cleanUp());

function done(...parameters: readonly string[]): string {
  const { code, stdout, stderr } = bench.imgfuse(...parameters);
  expect(stderr).toBe('');
  expect(code).toBe(0);
  return stdout;
}

describe('an option that is given twice', () => {
  it('counts as it was given last', () => {
    expect(done('check', '-r', 'leaks', '-r', 'all', '-f', 'raw', '-f', 'qed', 'a.qed')).toContain('No errors');
    const json = done('info', '--output', 'human', '--output', 'json', '-f', 'raw', '-f', 'qed', 'a.qed');
    expect(JSON.parse(json)).toHaveProperty('format', 'qed');
    const created = ['-f', 'raw', '-f', 'qed', '-b', 'gone', '-b', 'a.qed', '-F', 'raw', '-F', 'qed', 'b.qed'];
    expect(done('create', ...created)).toContain('backing_file=a.qed');
    done('mount', '--format', 'raw', '--format', 'qed', '--output', 'json', '--output', 'human', 'a.qed', 'mnt');
    expect(done('status', '--output=human', '--output=json', 'mnt')).toContain('"format": "qed"');
    done('unmount', '--output=json', '--output=human', 'mnt');
  });

  it('adds to a list where it is one', () => {
    const made = done('create', '-f', 'qed', '-o', 'cluster_size=32k', '-o', 'table_size=2', 'c.qed', '8M');
    expect(made).toContain('cluster_size=32768');
    expect(made).toContain('table_size=2');
    const folders = ['one', 'two'].map((name) => bench.makeDirectory(name));
    done('create', '-q', '-f', 'raw', 'one/base.raw', '8M');
    done('create', '-q', '-f', 'qed', '-b', '../one/base.raw', '-F', 'raw', 'two/d.qed');
    done('map', ...folders.flatMap((folder) => ['--allow-backing', folder]), 'two/d.qed');
  });
});

describe('behind --', () => {
  it('every command takes names that begin with a dash', () => {
    renameSync(bench.path('a.qed'), bench.path('-x.qed'));
    expect(JSON.parse(done('info', '--output=json', '--', '-x.qed'))).toHaveProperty('filename', '-x.qed');
    expect(done('check', '--', '-x.qed')).toContain('No errors');
    done('map', '--', '-x.qed');
    done('resize', '--', '-x.qed', '+8M');
    done('resize', '--shrink', '--', '-x.qed', '-8M');
    expect(done('create', '-f', 'qed', '--', '--y', '8M')).toContain("'--y'");
    done('mount', '--', '-x.qed', 'mnt');
    expect(done('status', '--', '-x.qed')).toMatch(/^mountpoint: .*mnt$/m);
    expect(done('remount', '-o', 'rw', '--', '-x.qed')).toContain('read-write');
    done('unmount', '--', '-x.qed');
    done('--', '-x.qed', 'mnt');
    done('umount', '--', 'mnt');
  });

  it('nothing is ignored, and nothing is an option or a command', () => {
    expect(bench.imgfuse('status', '--', 'nosuch')).toMatchObject({ code: 1, stdout: '' });
    for (const rest of [[], ['a.qed', '--output=json'], ['--help']]) {
      expect(bench.imgfuse('info', '--', ...rest)).toMatchObject({ code: 1, stdout: '' });
    }
    expect(bench.imgfuse('info', '--', 'a.qed', '-U').stderr).toContain('"-U" is one argument too many');
    expect(bench.imgfuse('--', 'status', 'mnt').stderr).toContain('neither a command nor an image called "status"');
  });
});

describe('from a working directory that is gone', () => {
  it('absolute paths work, and relative ones are told why they do not', () => {
    const image = bench.path('a.qed');
    const mountpoint = bench.path('mnt');
    const inDeleted = (...words: readonly string[]): Result => {
      const gone = bench.makeDirectory('gone');
      return bench.run('sh', ['-c', 'rmdir "$PWD" && exec "$0" "$@"', process.execPath, CLI, ...words], { cwd: gone });
    };
    for (const words of [
      ['mount', image, mountpoint],
      ['status', mountpoint],
      ['remount', '-o', 'rw', mountpoint],
      ['unmount', mountpoint],
      ['info', image],
      ['check', image],
      ['create', '-f', 'qed', bench.path('b.qed'), '1M'],
    ]) {
      expect(inDeleted(...words), words[0]!).toMatchObject({ code: 0, stderr: '' });
    }
    for (const words of [
      ['mount', 'a.qed', mountpoint],
      ['mount', '--pid-file', 'pid', image, mountpoint],
      ['unmount', 'mnt'],
      ['status', 'mnt'],
      ['info', 'a.qed'],
    ]) {
      const { code, stderr } = inDeleted(...words);
      expect(lines(stderr), words.join(' ')).toEqual([expect.stringMatching(/^imgfuse: (?!internal)/)]);
      expect(code, words[0]!).not.toBe(0);
      if (words[0] !== 'info') expect(stderr).toMatch(/working directory does not exist any more/);
    }
  });
});

describe('options in front of the command', () => {
  it('may be --output, whichever way it is written', () => {
    for (const option of [['--output', 'json'], ['--output=json']]) {
      expect(JSON.parse(done(...option, 'info', 'a.qed'))).toHaveProperty('format', 'qed');
    }
    done('-o', 'ro', 'a.qed', 'mnt');
    done('unmount', 'mnt');
  });
});

describe('help', () => {
  it('is a command, too', () => {
    expect(done('help', 'mount')).toBe(done('mount', '--help'));
    expect(done('help')).toBe(done('--help'));
  });
});

describe('completion', () => {
  const complete = (...words: readonly string[]): string[] =>
    lines(done('--get-yargs-completions', 'imgfuse', ...words)).sort();

  it('knows the commands, and the options of each', () => {
    expect(complete('m')).toEqual(expect.arrayContaining(['map', 'mount']));
    expect(complete('')).toEqual(expect.arrayContaining(['mount', 'unmount', 'check', 'status']));
    expect(complete('check', '--')).toContain('--repair');
    expect(complete('check', '--')).not.toContain('--workers');
    expect(complete('mount', '--')).toContain('--workers');
    expect(complete('check', '-r', '')).toEqual(['all', 'leaks']);
  });
});

describe('the manual page', () => {
  const page = readFileSync(new URL('../../scripts/man/imgfuse.1', import.meta.url), 'utf8')
    .replaceAll('\\-', '-')
    .replace(/\\f[BIR]/g, '');
  const sections = page.split(/^\.S[SH] /m);
  const global = ['--output', '--help', '--version'];

  it.each([
    'mount',
    'unmount',
    'remount',
    'status',
    'create',
    'info',
    'check',
    'map',
    'resize',
  ])('has every option of %s', (command) => {
    const section = sections.find((each) => each.split('\n')[0]!.split(', ').includes(command)) ?? '';
    const options = done('--get-yargs-completions', 'imgfuse', command, '--').match(/^--[a-z-]{2,}$/gm) ?? [];
    expect(options).toEqual(expect.arrayContaining(global));
    // those of passwords are told once, with the commands that have them
    const elsewhere = [...global, '--key-file', '--key-env'];
    expect(options.filter((option) => !elsewhere.includes(option) && !section.includes(option))).toEqual([]);
  });

  it('has every command', () => {
    for (const name of ['umount', 'completion', 'help'])
      expect(page).toMatch(new RegExp(`^.*imgfuse.*\\b${name}\\b`, 'm'));
  });
});
