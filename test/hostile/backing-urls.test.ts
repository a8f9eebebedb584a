// Backing files that are URLs: images name them, so nothing is fetched that the user did not allow, and an image on a
// server names no file of this machine. Names of files are the affair of backing-files.test.ts.

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { guestOffset } from '../../src/bytes/offsets.ts';
import { createDisk, inspectDisk, openDisk } from '../../src/disk/index.ts';
import { ImgfuseError } from '../../src/errors/index.ts';
import { fingerprints, readAll, withDisk } from '../support/image-files.ts';
import { keepNetworkThread } from '../support/kept-network.ts';
import { CLUSTER, writeQed } from '../support/qed-bytes.ts';
import { RangeServer } from '../support/range-server.ts';
import { makeTemporaryDirectory, removeTemporaryDirectory } from '../support/temporary.ts';

let folder: string;
let image: string;
let server: RangeServer;

keepNetworkThread();
beforeEach(() => {
  folder = makeTemporaryDirectory();
  image = join(folder, 'disk.qed');
  server = new RangeServer(Buffer.alloc(8 * CLUSTER, 0x33));
});
afterEach(async () => {
  await server.close();
  removeTemporaryDirectory(folder);
});

function overlay(backing: string, backingIsRaw = true): void {
  writeQed(image, { backing, backingIsRaw, empty: true });
}

/** Opens the image and expects a refusal before anything is asked of the server. */
function refusal(allowBacking: readonly string[] = [], kind = 'permission', requests = 0): string {
  const before = fingerprints(folder);
  let caught: unknown;
  try {
    openDisk(image, { readOnly: false, allowBacking }).close();
  } catch (error) {
    caught = error;
  }
  expect(caught).toBeInstanceOf(ImgfuseError);
  expect((caught as ImgfuseError).kind).toBe(kind);
  expect(server.requests().length).toBe(requests);
  expect(fingerprints(folder)).toEqual(before);
  return (caught as ImgfuseError).message;
}

describe('a URL in an image', () => {
  test('is refused with the flag that allows it, and not asked for', () => {
    overlay(`${server.origin}/base.raw`);
    expect(refusal()).toContain(`add --allow-backing ${server.origin}/base.raw`);
    expect(refusal([folder, '/'])).toContain('--allow-backing');
    expect(refusal([`${server.origin}/other/`, `https://127.0.0.1:${server.port}/`])).toContain('--allow-backing');
  });

  test.each(['/base.raw', '/', ''])('is read where %s of its server is allowed', (place) => {
    overlay(`${server.origin}/base.raw`);
    const bytes = withDisk(image, { readOnly: true, allowBacking: [`${server.origin}${place}`] }, readAll);
    expect(bytes[0]).toBe(0x33);
  });

  test('with a password in it is refused, and the password is not repeated', () => {
    overlay(`http://user:secret@127.0.0.1:${server.port}/base.raw`);
    const message = refusal([`${server.origin}/`]);
    expect(message).toMatch(/password/);
    expect(message).not.toContain('secret');
  });

  test.each([
    'ftp://127.0.0.1/x',
    'json:{}',
    'nbd://127.0.0.1/',
    'file:///etc/passwd',
  ])('of another scheme stays refused: %s', (name) => {
    overlay(name);
    expect(refusal([`${server.origin}/`, name.startsWith('ftp') ? 'http://127.0.0.1/' : '/'])).toContain(name);
  });

  test('whose format is not stored is not guessed to be raw', () => {
    overlay(`${server.origin}/base.raw`, false);
    expect(refusal([`${server.origin}/`], 'unsupported', 1)).toContain('raw is never guessed');
  });
});

describe('an image on a server', () => {
  /** Serves a QED overlay with this backing file name below the local image. */
  function serveOverlay(backing: string): void {
    const remote = join(folder, 'remote.qed');
    writeQed(remote, { backing, backingIsRaw: true, empty: true });
    server.replace(readFileSync(remote));
    overlay(`${server.origin}/images/middle.qed`, false);
  }

  test.each([
    '/etc/passwd',
    '../../../../etc/passwd',
    '//127.0.0.1:1/x',
    'file:///etc/passwd',
    'json:{"driver":"file","filename":"/etc/passwd"}',
  ])('that names %s does not reach a file of this machine, or another server', (name) => {
    serveOverlay(name);
    const message = refusal([`${server.origin}/images/`], 'permission', 1);
    expect(message).toContain(`${server.origin}/images/middle.qed is not opened`);
  });

  test('finds a relative name in its own folder, as a URL', () => {
    serveOverlay('base.raw');
    const disk = openDisk(image, { readOnly: true, allowBacking: [`${server.origin}/images/middle.qed`] });
    try {
      expect(disk.status().backing).toEqual([`${server.origin}/images/middle.qed`, `${server.origin}/images/base.raw`]);
    } finally {
      disk.close();
    }
  });

  test('that is its own backing file is a loop', () => {
    serveOverlay('middle.qed');
    const remote = join(folder, 'remote.qed');
    writeQed(remote, { backing: 'middle.qed', empty: true });
    server.replace(readFileSync(remote));
    expect(refusal([`${server.origin}/`], 'corrupt', 2)).toContain('loop');
  });

  test('that claims a size its server does not have is refused as any other', () => {
    const remote = join(folder, 'remote.qed');
    writeQed(remote, { fields: { l1TableOffset: 2n ** 62n } });
    server.replace(readFileSync(remote));
    overlay(`${server.origin}/middle.qed`, false);
    refusal([`${server.origin}/`], 'corrupt', 1);
  });

  test('is opened read-only by its URL, because the user named it, and not for writing', () => {
    const remote = join(folder, 'remote.qed');
    writeQed(remote, {});
    server.replace(readFileSync(remote));
    const url = `${server.origin}/remote.qed`;
    expect(withDisk(url, { readOnly: true }, readAll)).toEqual(withDisk(remote, { readOnly: true }, readAll));
    expect(() => openDisk(url, { readOnly: false })).toThrow(
      /read over HTTP and cannot be changed; mount it with -o ro/,
    );
    expect(inspectDisk(url)).toMatchObject({ filename: url, format: 'qed' });
  });
});

describe('an overlay', () => {
  test('is described and checked without its server', () => {
    overlay(`${server.origin}/base.raw`);
    expect(inspectDisk(image)).toMatchObject({
      backingFilename: `${server.origin}/base.raw`,
      fullBackingFilename: `${server.origin}/base.raw`,
    });
    expect(server.requests()).toEqual([]);
  });

  test('is created on a URL of the command line, with the size that is found there', () => {
    const path = join(folder, 'new.qcow2');
    const backing = `${server.origin}/base.raw`;
    const options = { options: new Map<string, string>(), backing, backingFormat: 'raw' };
    expect(createDisk(path, 'qcow2', options)).toEqual({ virtualSize: 8 * CLUSTER });
    const bytes = withDisk(path, { readOnly: true, allowBacking: [backing] }, readAll);
    expect(bytes.every((byte) => byte === 0x33)).toBe(true);
    server.forget();
    expect(createDisk(join(folder, 'sized.qcow2'), 'qcow2', { ...options, size: 1_048_576 })).toEqual({
      virtualSize: 1_048_576,
    });
    expect(server.requests()).toEqual([]);
  });

  test('is not created on a URL that no open would take', () => {
    const path = join(folder, 'new.qcow2');
    for (const backing of [`http://user:secret@127.0.0.1:${server.port}/x`, 'http:x', 'https://']) {
      const options = { size: 1_048_576, options: new Map<string, string>(), backing, backingFormat: 'raw' };
      expect(() => createDisk(path, 'qcow2', options)).toThrow(/URL/);
    }
    expect(Object.keys(fingerprints(folder))).toEqual([]);
  });

  test('of any format reads the same over HTTP as from a file', () => {
    const base = join(folder, 'base.qcow2');
    createDisk(base, 'qcow2', { size: 3_000_320, options: new Map([['cluster_size', '4k']]) });
    withDisk(base, { readOnly: false }, (disk) => {
      for (let at = 0; at + 5000 < disk.size(); at += 90_000)
        disk.write(Buffer.alloc(5000, 1 + (at % 250)), 0, 5000, guestOffset(at));
    });
    const wanted = withDisk(base, { readOnly: true }, readAll);
    server.replace(readFileSync(base));
    const path = join(folder, 'over.qcow2');
    const backing = `${server.origin}/base.qcow2`;
    createDisk(path, 'qcow2', { options: new Map(), backing, backingFormat: 'qcow2' });
    withDisk(path, { readOnly: false, allowBacking: [backing] }, (disk) => {
      expect(readAll(disk).equals(wanted)).toBe(true);
      disk.write(Buffer.alloc(700, 9), 0, 700, guestOffset(90_100));
      wanted.fill(9, 90_100, 90_800);
      expect(readAll(disk).equals(wanted)).toBe(true);
    });
    expect(withDisk(path, { readOnly: true, allowBacking: [backing] }, readAll).equals(wanted)).toBe(true);
  });
});
