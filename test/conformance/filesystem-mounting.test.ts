// Where and as whom the kernel transport mounts: odd names, refused mountpoints, without privileges, on an inherited
// descriptor.

import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import * as fs from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { findMount, listMounts } from '../../src/fuse/mount-table.ts';
import { unmountPath } from '../../src/fuse/unmount.ts';
import { umount2 } from '../../src/native/index.ts';
import { type MountServer, type ServerSpec, sleep, startPlainServer, unmountBelow } from '../support/mount-server.ts';
import { canMountAsRoot, hasCommand, requireOrSkip } from '../support/requirements.ts';
import { makeTemporaryDirectory, removeTemporaryDirectory } from '../support/temporary.ts';

const MiB = 1024 * 1024;
const NOBODY = 65534;
const SERVER = fileURLToPath(new URL('../support/filesystem-server.mjs', import.meta.url));

let folder = '';
let mountpoint = '';
let servers: MountServer[] = [];
let children: ChildProcess[] = [];

beforeEach((context) => {
  requireOrSkip(context, canMountAsRoot(), 'root and /dev/fuse');
  folder = makeTemporaryDirectory();
  mountpoint = join(folder, 'mountpoint');
  servers = [];
  children = [];
});

afterEach(async () => {
  if (folder === '') return;
  for (const server of servers) await server.cleanup();
  unmountBelow(folder);
  for (const child of children) {
    if (child.exitCode === null && child.signalCode === null) child.kill('SIGKILL');
  }
  removeTemporaryDirectory(folder);
});

async function start(spec: Partial<ServerSpec> = {}): Promise<MountServer> {
  const server = await startPlainServer({ folder, mountpoint, size: 4 * MiB, transport: 'kernel', ...spec });
  servers.push(server);
  return server;
}

function makeDirectory(name: string, owner = 0): string {
  const path = join(folder, name);
  fs.mkdirSync(path);
  fs.chownSync(path, owner, owner);
  return path;
}

describe('names', () => {
  test.each([
    'with space',
    'tab\tnewline\n',
    'back\\slash\\040',
    'comma,ro,x',
    'ünï→cödé',
    '-o',
    '#hash',
    '100%$HOME`id`',
  ])('a mountpoint and a source called %j are mounted, found and unmounted', async (name) => {
    const target = makeDirectory(name);
    const source = join(folder, `source ${name}`);
    const server = await start({ mountpoint: target, source });
    expect(fs.readdirSync(target)).toEqual(['disk.raw']);
    expect(findMount(target)).toMatchObject({ mountpoint: target, source, readOnly: false });
    expect(listMounts().map((entry) => entry.mountpoint)).toContain(target);
    unmountPath(target);
    expect(findMount(target)).toBeUndefined();
    expect(await server.ended).toBe(0);
  });

  test('a mount below a symbolic link is found through it', async () => {
    const real = makeDirectory('real');
    fs.mkdirSync(join(real, 'mountpoint'));
    fs.symlinkSync(real, join(folder, 'link'));
    const server = await start({ mountpoint: join(folder, 'link', 'mountpoint') });
    expect(server.mountpoint).toContain('link');
    expect(findMount(join(folder, 'link', 'mountpoint'))?.mountpoint).toBe(join(real, 'mountpoint'));
    unmountPath(join(folder, 'link', 'mountpoint'));
  });

  test('generic flags arrive in the kernel', async () => {
    fs.mkdirSync(mountpoint);
    await start({ flags: ['rw', 'nodev', 'nosuid', 'noexec', 'noatime', 'dirsync'], readOnly: true });
    const options = findMount(mountpoint)?.options;
    for (const option of ['ro', 'nodev', 'nosuid', 'noexec', 'noatime', 'dirsync', 'default_permissions']) {
      expect(options).toContain(option);
    }
  });
});

describe('refused mountpoints', () => {
  async function refusal(spec: Partial<ServerSpec> = {}): Promise<string> {
    const mounts = (): number => listMounts().filter(({ mountpoint: at }) => at.startsWith(folder)).length;
    const before = mounts();
    const error = await start(spec).then(
      () => new Error('it was mounted'),
      (refused: Error) => refused,
    );
    expect(mounts()).toBe(before);
    expect(error.message).toContain(mountpoint);
    return error.message;
  }

  test('one that does not exist', async () => {
    expect(await refusal()).toMatch(/^missing: .* does not exist/);
  });

  test('one whose parent does not exist', async () => {
    mountpoint = join(folder, 'no', 'where');
    expect(await refusal()).toMatch(/^missing: .* does not exist/);
  });

  test('a symbolic link', async () => {
    fs.symlinkSync(makeDirectory('real'), mountpoint);
    expect(await refusal()).toMatch(/^usage: .*symbolic link/);
  });

  test('a FIFO', async () => {
    execFileSync('mkfifo', [mountpoint]);
    expect(await refusal()).toMatch(/^usage: .*neither a directory nor a regular file/);
  });

  test('one that is mounted already, with a living or a dead server', async () => {
    fs.mkdirSync(mountpoint);
    const first = await start();
    expect(await refusal()).toMatch(/^busy: .*mountpoint already .*fuse\.imgfuse/);
    first.kill();
    await first.ended;
    expect(await refusal()).toMatch(/^busy: .*mountpoint already/);
  });

  test('by fuse-native in the same words', async () => {
    fs.symlinkSync(makeDirectory('real'), mountpoint);
    expect(await refusal({ transport: 'fuse-native' })).toMatch(/^usage: .*symbolic link/);
  });

  test('an unknown mount flag', async () => {
    fs.mkdirSync(mountpoint);
    await expect(start({ flags: ['nosuch'] })).rejects.toThrow('usage: the mount flag nosuch');
    expect(findMount(mountpoint)).toBeUndefined();
  });
});

describe('unmountPath', () => {
  test('refuses what is not an imgfuse mount', () => {
    expect(() => unmountPath(folder)).toThrow('no imgfuse mount');
    expect(() => unmountPath('/proc')).toThrow('no imgfuse mount');
    expect(() => unmountPath(join(folder, 'not', 'there'))).toThrow('does not exist');
  });

  test('says what to do about a mount in use', async () => {
    fs.mkdirSync(mountpoint);
    const server = await start();
    const fd = fs.openSync(server.diskPath, 'r');
    expect(() => unmountPath(mountpoint)).toThrow(/in use.*loop devices/);
    unmountPath(mountpoint, { lazy: true });
    expect(findMount(mountpoint)).toBeUndefined();
    fs.closeSync(fd);
    expect(await server.ended).toBe(0);
  });
});

describe('without privileges', () => {
  const needs = 'root (to become another user), fusermount3, unshare, nsenter and setpriv';
  const commands = ['fusermount3', 'unshare', 'nsenter', 'setpriv', 'mknod'];

  async function startAsNobody(
    context: Parameters<typeof requireOrSkip>[0],
    spec: Partial<ServerSpec> = {},
  ): Promise<MountServer> {
    requireOrSkip(context, commands.every(hasCommand), needs);
    fs.chmodSync(folder, 0o755);
    return await start({ uid: NOBODY, source: join(folder, 'a, b\\c'), ...spec });
  }

  test('fusermount3 mounts, and the mount is read, written and unmounted', async (context) => {
    makeDirectory('mountpoint', NOBODY);
    const server = await startAsNobody(context);
    expect(server.mountEntry()).toMatchObject({ source: join(folder, 'a, b\\c'), type: 'fuse.imgfuse' });
    expect(server.mountEntry()?.options).toContain(`user_id=${NOBODY}`);
    server.run('sh', '-c', 'printf hello | dd of="$0" conv=notrunc,fsync 2>&1', server.diskPath);
    expect(server.run('head', '-c', '5', server.diskPath)).toBe('hello');
    await server.unmount();
    expect(await server.ended).toBe(0);
  });

  test('fuse-native mounts through fusermount and sees the end', async (context) => {
    makeDirectory('mountpoint', NOBODY);
    const server = await startAsNobody(context, { transport: 'fuse-native' });
    expect(server.run('head', '-c', '5', server.diskPath)).toBe('\0\0\0\0\0');
    await server.unmount();
    expect(await server.ended).toBe(0);
  });

  test('a file of the user can be the mountpoint', async (context) => {
    fs.writeFileSync(mountpoint, 'below');
    fs.chownSync(mountpoint, NOBODY, NOBODY);
    const server = await startAsNobody(context);
    expect(server.diskPath).toBe(mountpoint);
    expect(server.run('stat', '-c', '%s', mountpoint).trim()).toBe(String(4 * MiB));
    await server.unmount();
    expect(await server.ended).toBe(0);
  });

  test('an unmount in use is busy', async (context) => {
    makeDirectory('mountpoint', NOBODY);
    const server = await startAsNobody(context);
    const user = server.spawn('sh', '-c', 'exec 3< "$0"; echo open; exec sleep 60', server.diskPath);
    children.push(user);
    await once(user.stdout!, 'data');
    await expect(server.unmount()).rejects.toThrow(/^busy/);
    user.kill();
    await once(user, 'exit');
    await server.unmount();
    expect(await server.ended).toBe(0);
  });

  test('the connection can be aborted where fusectl is mounted, and says why where it is not', async (context) => {
    makeDirectory('mountpoint', NOBODY);
    const server = await startAsNobody(context);
    const hasFusectl = fs.readdirSync('/sys/fs/fuse/connections').length > 0;
    if (hasFusectl) {
      await server.abort();
      expect(await server.ended).toBe(0);
    } else await expect(server.abort()).rejects.toThrow(/^unsupported: .*fusectl/);
  });

  test("somebody else's directory is refused with the words of fusermount3", async (context) => {
    makeDirectory('mountpoint', 0);
    await expect(startAsNobody(context)).rejects.toThrow(/^permission: .*fusermount3: /);
  });
});

describe('on an inherited descriptor', () => {
  test.for(['directory', 'file'])('mount.fuse3 -o drop_privileges mounts on a %s', async (kind, context) => {
    requireOrSkip(context, hasCommand('mount.fuse3'), 'mount.fuse3');
    if (kind === 'directory') fs.mkdirSync(mountpoint);
    else fs.writeFileSync(mountpoint, '');
    const backing = join(folder, 'backing');
    fs.writeFileSync(backing, '');
    fs.truncateSync(backing, 4 * MiB);
    fs.chmodSync(backing, 0o666);
    const options = {
      ...{ transport: 'kernel', mountpoint: '@', source: backing, backing, readOnly: false, allowOther: false },
      ...{ defaultPermissions: true, flags: [], workers: 2 },
    };
    // mount.fuse3 runs "PROGRAM SOURCE /dev/fd/N -o OPTIONS" through a shell
    const program = join(folder, 'program');
    const json = JSON.stringify(options).replace('"@"', '"\'"$2"\'"');
    fs.writeFileSync(program, `#!/bin/sh\nexec '${process.execPath}' '${SERVER}' '${json}'\n`, { mode: 0o755 });
    const helper = spawn(
      'mount.fuse3',
      [`${program}#${backing}`, mountpoint, '-o', 'drop_privileges,subtype=imgfuse'],
      {
        stdio: ['ignore', 'ignore', 'inherit'],
      },
    );
    children.push(helper);
    const disk = kind === 'directory' ? join(mountpoint, 'disk.raw') : mountpoint;
    await waitFor(() => findMount(mountpoint) !== undefined);

    // in another process: this one must not wait for a server that may not come up
    execFileSync('dd', [`of=${disk}`, 'conv=notrunc,fsync'], {
      input: 'hello',
      stdio: ['pipe', 'ignore', 'ignore'],
      timeout: 20_000,
    });
    expect(execFileSync('head', ['-c', '5', disk], { encoding: 'utf8', timeout: 20_000 })).toBe('hello');
    expect(fs.readFileSync(backing).subarray(0, 5).toString()).toBe('hello');
    umount2(mountpoint, 0);
    const [code] = await once(helper, 'exit');
    expect(code).toBe(0);
  });

  test('a descriptor that is not of /dev/fuse is refused', async () => {
    fs.mkdirSync(mountpoint);
    await expect(start({ mountpoint: '/dev/fd/2' })).rejects.toThrow('usage: /dev/fd/2 is not an open descriptor');
    await expect(start({ mountpoint: '/dev/fd/999' })).rejects.toThrow('usage: /dev/fd/999 is not an open descriptor');
  });
});

async function waitFor(condition: () => boolean): Promise<void> {
  for (let attempt = 0; attempt < 100; attempt += 1) {
    if (condition()) return;
    await sleep(50);
  }
  throw new Error('it did not happen within 5 seconds');
}
