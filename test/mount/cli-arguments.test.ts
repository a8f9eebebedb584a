// How arguments are understood: options that are given twice.

import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { canMountAsRoot, requireOrSkip } from '../support/requirements.ts';
import { Bench } from './cli-harness.ts';

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
    const json = done('info', '--output', 'human', '--output', 'json', '-f', 'qed', '-f', 'raw', 'a.qed');
    expect(JSON.parse(json)).toHaveProperty('format', 'raw');
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
