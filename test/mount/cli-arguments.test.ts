// How arguments are understood: options that are given twice, names behind --, options in front of the command, relative
// paths that lead nowhere, mount(8), completion.

import { existsSync, renameSync } from 'node:fs';
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
    expect(bench.imgfuse('--', 'status', 'mnt').stderr).toContain('/status does not exist');
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
    for (const [command] of done('help').matchAll(/(?<=^ {2}imgfuse )[a-z]+/gm)) {
      if (command !== 'help') expect(done('help', command)).toMatch(new RegExp(`^imgfuse ${command}\\b`));
    }
    expect(bench.imgfuse('help', 'mont').stderr).toContain('unknown command "mont"; did you mean "mount"?');
    expect(bench.imgfuse('help', 'mount', 'x').stderr).toContain(
      '"x" is one argument too many: imgfuse help [COMMAND]',
    );
  });

  it('and the version are told before anything else is looked at', () => {
    const version = done('--version');
    expect(version).toMatch(/^\d+\.\d+\.\d+\n$/);
    for (const words of [['-V'], ['info', '-V'], ['-V', 'info'], ['check', '--frob', '--version']]) {
      expect(done(...words)).toBe(version);
    }
    for (const words of [
      ['check', '-h'],
      ['-h', 'check'],
      ['check', '--frob', '--help', 'a', 'b'],
      ['help', 'check'],
    ]) {
      expect(done(...words)).toBe(done('check', '--help'));
    }
  });
});

describe('mount(8)', () => {
  /** mount.fuse3 finds the program in the PATH that mount(8) leaves it. */
  const mount8 = (...parameters: readonly string[]): Result => {
    const script = `mkdir bin; printf '#!/bin/sh\\nexec "%s" "%s" "$@"\\n' '${process.execPath}' '${CLI}' >bin/imgfuse
      chmod 755 bin/imgfuse; mount --bind bin /usr/local/sbin; mount --bind bin /usr/local/bin; exec mount "$@"`;
    return bench.run('unshare', ['--mount', '--propagation', 'private', 'sh', '-c', script, 'sh', ...parameters]);
  };

  it('is told about a missing image, a mistyped option and a wrong value as everybody is', (context) => {
    requireOrSkip(context, existsSync('/sbin/mount.fuse3'), 'mount.fuse3');
    const said = (...parameters: readonly string[]): string => {
      const { code, stderr } = mount8('-t', 'fuse.imgfuse', ...parameters);
      expect(code).not.toBe(0);
      return lines(stderr).find((line) => line.startsWith('imgfuse: '))!;
    };
    expect(said('missing', 'mnt')).toMatch(/^imgfuse: \S*missing does not exist/);
    expect(said('a.qed', 'mnt', '-o', 'ro,sahre')).toContain('no mount option "sahre"; did you mean "share"?');
    expect(said('a.qed', 'mnt', '-o', 'workers=many')).toContain('"many" is no value for workers');
    expect(said('a.qed', 'gone')).toMatch(/gone/);
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
    expect(complete('mount', '--')).toEqual(expect.arrayContaining(['--read-only', '--rw']));
  });

  it('is a script for the shell that is named', () => {
    expect(done('completion', 'bash')).toContain('complete -o');
    expect(done('completion', 'zsh')).toContain('#compdef imgfuse');
    expect(done('completion', 'fish')).toContain('complete -c imgfuse');
    for (const shell of ['bash', 'zsh', 'fish']) {
      expect(bench.runCli(['completion'], { SHELL: `/bin/${shell}` }).stdout).toBe(done('completion', shell));
    }
    expect(bench.imgfuse('completion', 'csh').stderr).toContain('the SHELL is "csh", but must be bash, zsh or fish');
  });
});
