// The fast parser of mount, and the request that comes out of it.

import { mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { mountRequest, parseMountArguments } from '../../../src/cli/mount-arguments.ts';
import { makeTemporaryDirectory, removeTemporaryDirectory } from '../../support/temporary.ts';

function request(...argv: readonly string[]): ReturnType<typeof mountRequest> {
  const parsed = parseMountArguments(argv);
  if (parsed === null) throw new Error(`not understood: ${argv.join(' ')}`);
  return mountRequest(parsed);
}

describe('parseMountArguments', () => {
  it('takes mount(8) order, options first, -oLIST without a space, and repeated -o', () => {
    for (const argv of [
      ['/i', '/m', '-o', 'ro,allow_other'],
      ['-o', 'ro,allow_other', '/i', '/m'],
      ['/i', '/m', '-oro,allow_other'],
      ['/i', '-o', 'ro', '/m', '-o', 'allow_other'],
    ]) {
      expect(request(...argv)).toMatchObject({ image: '/i', mountpoint: '/m', readOnly: true, allowOther: true });
    }
  });
  it('leaves help and the version to others, and refuses unknown options and a wrong number of names', () => {
    for (const argv of [['--help'], ['-h', '/i'], ['/i', '/m', '-V'], ['--frob', '--version']]) {
      expect(parseMountArguments(argv)).toBeNull();
    }
    for (const argv of [['/i'], ['/i', '/m', '/x'], ['/i', '/m', '--frob'], ['/i', '/m', '-o']]) {
      expect(() => parseMountArguments(argv)).toThrow(/mount/);
    }
  });
  it('takes -r and -w, --read-only and --rw as mount(8) does, each at its place among the options', () => {
    for (const option of ['-r', '--read-only']) expect(request('/i', '/m', option).readOnly).toBe(true);
    for (const option of ['-w', '--rw', '--read-write']) expect(request('-r', '/i', '/m', option).readOnly).toBe(false);
    expect(request('-r', '-o', 'rw', '/i', '/m').readOnly).toBe(false);
    expect(request('-o', 'rw', '-rf', '/i', '/m')).toMatchObject({ readOnly: true, foreground: true });
  });
  it('takes paths with spaces, and paths that begin with a dash behind --', () => {
    expect(request('/a b', '/c d')).toMatchObject({ image: '/a b', mountpoint: '/c d' });
    expect(request('--', '-i', '-m').image).toMatch(/\/-i$/);
  });
});

describe('mountRequest', () => {
  it('makes paths absolute', () => {
    const relative = request('disk.qed', 'mnt', '--pid-file', 'p', '--allow-backing', 'b');
    for (const path of [relative.image, relative.mountpoint, relative.pidFile!, ...relative.allowBacking]) {
      expect(path).toMatch(/^\//);
    }
  });
  it('finds what ".." means behind a symbolic link as the kernel does, and keeps the name of an image that is a link', () => {
    const folder = makeTemporaryDirectory();
    mkdirSync(join(folder, 'real/deep'), { recursive: true });
    symlinkSync('real/deep', join(folder, 'symdir'));
    writeFileSync(join(folder, 'real/disk.qed'), '');
    symlinkSync('real/disk.qed', join(folder, 'link.qed'));
    const paths = request(`${folder}/symdir/../disk.qed`, `${folder}/symdir/..`, '--pid-file', `${folder}/symdir/../p`);
    expect(paths).toMatchObject({
      image: join(folder, 'real/disk.qed'),
      imageName: join(folder, 'real/disk.qed'),
      mountpoint: join(folder, 'real'),
      pidFile: join(folder, 'real/p'),
    });
    expect(request(join(folder, 'link.qed'), '/m')).toMatchObject({
      image: join(folder, 'real/disk.qed'),
      imageName: join(folder, 'link.qed'),
    });
    removeTemporaryDirectory(folder);
  });
  it('keeps an inherited descriptor as it is', () => {
    expect(request('/i', '/dev/fd/7').mountpoint).toBe('/dev/fd/7');
  });
  it('-d implies -f; -s is one worker; the default is a worker for each processor and at least two', () => {
    expect(request('/i', '/m', '-d')).toMatchObject({ debug: true, foreground: true });
    expect(request('/i', '/m', '-s').workers).toBe(1);
    expect(request('/i', '/m').workers).toBe(Math.min(16, Math.max(2, availableParallelism())));
    expect(request('/i', '/m', '--workers', '5').workers).toBe(5);
  });
  it('an option of the command line wins over its -o form', () => {
    expect(request('/i', '/m', '-o', 'format=raw,workers=3', '--format', 'qed', '--workers=4')).toMatchObject({
      format: 'qed',
      workers: 4,
    });
  });
  it('is plain data: what it says survives JSON', () => {
    const full = request('/i', '/m', '-o', 'ro,uid=1,fsname=x', '--transport', 'kernel');
    expect(JSON.parse(JSON.stringify(full))).toEqual(full);
  });
  it('refuses empty names', () => {
    expect(() => request('', '/m')).toThrow(/IMAGE is an empty string/);
    expect(() => request('/i', '')).toThrow(/MOUNTPOINT is an empty string/);
  });
});
