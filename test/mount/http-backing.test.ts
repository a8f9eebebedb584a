// Backing files over HTTP and HTTPS through the command line and a real mount: a guest's file system on a slow server is in
// use at once, a certificate that nobody vouches for is refused, and a server that comes and goes costs errors and no data.

import { spawn } from 'node:child_process';
import { closeSync, existsSync, openSync, readFileSync, readSync, writeFileSync } from 'node:fs';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { RangeServer } from '../support/range-server.ts';
import { canMountAsRoot, hasCommand, requireOrSkip } from '../support/requirements.ts';
import { Bench, exitOf, outlives, until } from './cli-harness.ts';

const MIB = 1024 * 1024;

let bench: Bench;
let server: RangeServer | null;
beforeEach(() => {
  bench = new Bench();
  server = null;
});
afterEach(async () => {
  bench.cleanUp();
  await server?.close();
});

function imgfuse(...parameters: readonly string[]): string {
  const { code, stdout, stderr } = bench.imgfuse(...parameters);
  expect(code, `imgfuse ${parameters.join(' ')}: ${stderr}`).toBe(0);
  return stdout;
}

function run(command: string, ...parameters: readonly string[]): string {
  const { code, stdout, stderr } = bench.run(command, parameters);
  expect(code, `${command} ${parameters.join(' ')}: ${stderr}${stdout}`).toBe(0);
  return stdout.trim();
}

/** Bytes that tell where they come from. */
function content(length: number): Buffer {
  const bytes = Buffer.alloc(length);
  for (let at = 0; at < length; at += 8) bytes.writeDoubleLE(at, at);
  return bytes;
}

interface Network {
  readonly url: string;
  readonly requests: number;
  readonly bytes: number;
}

function network(mountpoint: string): Network {
  const [status] = JSON.parse(imgfuse('status', '--output=json', mountpoint)) as { network: Network[] }[];
  return status!.network[0]!;
}

function readBytes(path: string, length: number, offset: number): Buffer {
  const file = openSync(path, 'r');
  try {
    const bytes = Buffer.alloc(length);
    return bytes.subarray(0, readSync(file, bytes, 0, length, offset));
  } finally {
    closeSync(file);
  }
}

describe('the command line', () => {
  test('creates, describes, checks and maps an overlay on a URL', () => {
    server = new RangeServer(content(MIB));
    const url = `${server.origin}/base.raw`;
    imgfuse('create', '-f', 'qcow2', '-b', url, '-F', 'raw', 'disk.qcow2');
    server.forget();
    expect(imgfuse('info', 'disk.qcow2')).toContain(`backing file: ${url}\n`);
    imgfuse('check', 'disk.qcow2');
    expect(server.requests()).toEqual([]);
    const refused = bench.imgfuse('map', 'disk.qcow2');
    expect(refused.code).toBe(1);
    expect(refused.stderr).toContain(`add --allow-backing ${url}`);
    const entries = JSON.parse(imgfuse('map', '--output=json', '--allow-backing', url, 'disk.qcow2')) as unknown[];
    expect(entries).toEqual([
      { start: 0, length: MIB, depth: 1, present: true, zero: false, data: true, offset: 0, filename: url },
    ]);
  });

  test('reads over HTTPS where the certificate is trusted, and refuses it where it is not', (context) => {
    requireOrSkip(context, hasCommand('openssl'), 'openssl');
    const key = bench.path('key.pem');
    const cert = bench.path('cert.pem');
    const subject = ['-subj', '/CN=127.0.0.1', '-addext', 'subjectAltName=IP:127.0.0.1'];
    run(
      'openssl',
      'req',
      '-x509',
      '-newkey',
      'rsa:2048',
      '-nodes',
      '-days',
      '2',
      '-keyout',
      key,
      '-out',
      cert,
      ...subject,
    );
    server = new RangeServer(content(MIB), { key, cert });
    const url = `${server.origin}/base.raw`;
    const create = (name: string, environment: NodeJS.ProcessEnv) =>
      bench.runCli(['create', '-f', 'qcow2', '-b', url, '-F', 'raw', name], environment);

    const refused = create('refused.qcow2', {});
    expect(refused.code).toBe(1);
    expect(refused.stderr).toMatch(/certificate.*not trusted.*SELF_SIGNED.*NODE_EXTRA_CA_CERTS/);
    // the switch with which Node stops to verify is none here
    expect(create('refused.qcow2', { NODE_TLS_REJECT_UNAUTHORIZED: '0' }).code).toBe(1);
    expect(existsSync(bench.path('refused.qcow2'))).toBe(false);

    expect(create('disk.qcow2', { NODE_EXTRA_CA_CERTS: cert })).toMatchObject({ code: 0 });
    expect(imgfuse('info', 'disk.qcow2')).toContain('virtual size: 1 MiB');
    if (!canMountAsRoot()) return;
    // the process of a mount reads them when it needs them
    const mount = (environment: NodeJS.ProcessEnv) =>
      bench.runCli(['mount', '--allow-backing', server!.origin, 'disk.qcow2', 'mnt'], environment);
    bench.makeDirectory('mnt');
    expect(mount({}).stderr).toMatch(/certificate.*not trusted/);
    expect(mount({ NODE_EXTRA_CA_CERTS: bench.path('missing') }).stderr).toMatch(/certificate.*not trusted/);
    expect(mount({ NODE_EXTRA_CA_CERTS: cert })).toMatchObject({ code: 0 });
    expect(readFileSync(bench.path('mnt/disk.raw'))).toEqual(content(MIB));
    expect(imgfuse('unmount', 'mnt')).toBe('');
  });

  test('goes through the proxy that the environment names', () => {
    server = new RangeServer(content(MIB));
    // a proxy gets the whole URL of a host that it alone can reach
    const url = 'http://images.invalid/base.raw';
    const command = ['create', '-f', 'qcow2', '-b', url, '-F', 'raw', 'disk.qcow2'];
    expect(bench.runCli(command, { http_proxy: '', https_proxy: '' }).code).toBe(1);
    expect(bench.runCli(command, { http_proxy: server.origin, no_proxy: '' })).toMatchObject({ code: 0 });
    expect(server.requests().map((request) => request.url)).toContain(url);
  });
});

describe('a mount', () => {
  test('of an ext4 image on a server of 2 MB/s is in use at once, and changes go to the overlay', (context) => {
    requireOrSkip(context, canMountAsRoot() && hasCommand('mkfs.ext4'), 'root, /dev/fuse and mkfs.ext4');
    const base = bench.path('base.raw');
    const tree = bench.makeDirectory('tree');
    for (let i = 0; i < 20; i++) writeFileSync(`${tree}/file${i}`, content(MIB + i * 1000));
    run('truncate', '-s', '64M', base);
    run('mkfs.ext4', '-q', '-F', '-d', tree, base);
    server = new RangeServer(readFileSync(base));
    server.set({ bytesPerSecond: 2_000_000 });
    const url = `${server.origin}/base.raw`;
    imgfuse('create', '-f', 'qcow2', '-b', url, '-F', 'raw', 'disk.qcow2');
    const at = bench.makeDirectory('mnt');
    const streamed = ['-o', 'copy_on_read', '--allow-backing', url];
    const guest = bench.makeDirectory('guest');

    // 64 MB at 2 MB/s are half a minute
    const start = performance.now();
    imgfuse('mount', 'disk.qcow2', at, ...streamed);
    run('mount', '-o', 'loop', `${at}/disk.raw`, guest);
    expect(readFileSync(`${guest}/file7`).equals(content(MIB + 7000))).toBe(true);
    writeFileSync(`${guest}/new`, content(100_000));
    expect(performance.now() - start, 'ms until a file of the guest is read').toBeLessThan(20_000);
    expect(network(at).bytes, 'bytes that were fetched').toBeLessThan(20 * MIB);

    server.set({ bytesPerSecond: 0 });
    run('umount', guest);
    imgfuse('unmount', at);
    imgfuse('mount', 'disk.qcow2', at, ...streamed);
    run('mount', '-o', 'loop,ro', `${at}/disk.raw`, guest);
    expect(readFileSync(`${guest}/new`).equals(content(100_000))).toBe(true);
    run('diff', '-r', '--exclude=new', '--exclude=lost+found', tree, guest);
    run('umount', guest);
    imgfuse('unmount', at);
    imgfuse('check', 'disk.qcow2');

    // everything that the guest reads is here now
    imgfuse('mount', 'disk.qcow2', at, ...streamed);
    const before = network(at).bytes;
    run('mount', '-o', 'loop,ro', `${at}/disk.raw`, guest);
    run('diff', '-r', '--exclude=new', '--exclude=lost+found', tree, guest);
    expect(network(at).bytes, 'bytes that the second pass fetched').toBe(before);
    run('umount', guest);
    imgfuse('unmount', at);
  });

  test.for([
    'qcow2',
    'qed',
  ])('of %s with copy-on-read streams its base: the second pass reads nothing from the network', (format, context) => {
    requireOrSkip(context, hasCommand('qemu-img'), 'qemu-img');
    const bytes = content(8 * MIB);
    bytes.fill(0, 3 * MIB, 4 * MIB);
    server = new RangeServer(bytes);
    server.set({ bytesPerSecond: 4_000_000 });
    const url = `${server.origin}/base.raw`;
    imgfuse('create', '-f', format, '-o', 'copy_on_read=on', '-b', url, '-F', 'raw', 'disk.img');
    const at = bench.makeDirectory('mnt');
    imgfuse('mount', 'disk.img', at, '--allow-backing', url);
    const disk = `${at}/disk.raw`;
    expect(readBytes(disk, 100_000, 5 * MIB).equals(bytes.subarray(5 * MIB, 5 * MIB + 100_000))).toBe(true);
    expect(imgfuse('status', at)).toMatch(/copy on read: +on\nlocal: +.*\([0-9]%\), 7.* from the backing file/);
    // four readers at once, each from another place on
    const readers = [0, 2, 4, 6].map((start) => `dd if=${disk} of=/dev/null bs=1M skip=${start} count=3 2>&1 &`);
    run('sh', '-c', `${readers.join(' ')} wait`);
    expect(network(at).bytes).toBe(8 * MIB);
    expect(readFileSync(disk).equals(bytes)).toBe(true);
    expect(imgfuse('status', at)).toMatch(/local: +8 MiB \(100%\), 0 B from the backing file/);
    imgfuse('unmount', at);

    imgfuse('mount', 'disk.img', at, '--allow-backing', url);
    server.forget();
    const before = network(at).bytes;
    expect(readFileSync(disk).equals(bytes)).toBe(true);
    expect(server.requests()).toEqual([]);
    expect(network(at).bytes).toBe(before);
    imgfuse('unmount', at);
    imgfuse('check', 'disk.img');
    // all of it is here: QEMU finds the same bytes when it is told to forget the base
    writeFileSync(bench.path('base.raw'), bytes);
    run('qemu-img', 'rebase', '-u', '-f', format, '-b', '', 'disk.img');
    run('qemu-img', 'check', '-f', format, 'disk.img');
    run('qemu-img', 'compare', '-f', format, '-F', 'raw', 'disk.img', 'base.raw');
  });

  test('that is read-only refuses copy_on_read by a sentence, and ignores what is stored', () => {
    server = new RangeServer(content(MIB));
    const url = `${server.origin}/base.raw`;
    imgfuse('create', '-f', 'qcow2', '-o', 'copy_on_read=on', '-b', url, '-F', 'raw', 'disk.img');
    const at = bench.makeDirectory('mnt');
    const refused = bench.imgfuse('mount', 'disk.img', at, '-o', 'ro,copy_on_read', '--allow-backing', url);
    expect(refused.code).toBe(1);
    expect(refused.stderr).toContain('is opened read-only, and copy_on_read writes to it');
    imgfuse('mount', 'disk.img', at, '-o', 'ro', '--allow-backing', url);
    expect(imgfuse('status', at)).toMatch(/copy on read: +off/);
    imgfuse('unmount', at);
    imgfuse('mount', 'disk.img', at, '-o', 'nocopy_on_read', '--allow-backing', url);
    expect(imgfuse('status', at)).toMatch(/copy on read: +off/);
    imgfuse('unmount', at);
  });

  test.each([
    'kernel',
    'fuse-native',
  ])('%s: gives EIO while the base is another one or away, and data afterwards', async (transport) => {
    const bytes = content(8 * MIB);
    server = new RangeServer(bytes);
    const url = `${server.origin}/base.raw`;
    imgfuse('create', '-f', 'qed', '-b', url, '-F', 'raw', 'disk.qed');
    const at = bench.makeDirectory('mnt');
    imgfuse('mount', 'disk.qed', at, '-o', `allow_backing=${server.origin}/`, '--transport', transport);
    const disk = `${at}/disk.raw`;
    expect(readBytes(disk, 4096, 0).equals(bytes.subarray(0, 4096))).toBe(true);

    server.set({ etag: '"two"' });
    expect(() => readBytes(disk, 4096, 4 * MIB)).toThrow(/EIO/);
    const log = (): string => readFileSync(bench.records()[0]!.log!, 'utf8');
    await until(() => /READ failed: .*base\.raw has changed since it was opened/i.test(log()), 'the line of the log');
    server.set({ etag: '"one"' });
    expect(readBytes(disk, 4096, 4 * MIB).equals(bytes.subarray(4 * MIB, 4 * MIB + 4096))).toBe(true);

    server.goDown();
    const reader = spawn('dd', [`if=${disk}`, 'bs=4096', 'count=1', 'skip=1500', 'of=/dev/null'], { stdio: 'ignore' });
    const ended = exitOf(reader);
    // only fuse-native serves requests on the thread that answers here
    if (transport === 'kernel') {
      expect(network(at).url).toBe(url);
      expect(reader.exitCode, 'the reader still waits').toBe(null);
    }
    expect(await ended).toBe(1);
    server.comeBack();
    expect(readBytes(disk, 4096, 6 * MIB).equals(bytes.subarray(6 * MIB, 6 * MIB + 4096))).toBe(true);
    imgfuse('unmount', at);
    imgfuse('check', 'disk.qed');
  });

  test('serves what lies in the image while a reader, the first user of the disk, waits for a server', async () => {
    server = new RangeServer(content(4 * MIB));
    const url = `${server.origin}/base.raw`;
    const at = bench.makeDirectory('mnt');
    imgfuse('create', '-q', '-f', 'qcow2', '-b', url, '-F', 'raw', 'disk.qcow2');
    // more than the kernel reads ahead
    const written = Buffer.alloc(MIB, 7);
    writeFileSync(bench.path('written'), written);
    imgfuse('mount', '--allow-backing', url, 'disk.qcow2', at);
    run('dd', 'if=written', `of=${at}/disk.raw`, 'bs=1M', 'conv=notrunc');
    imgfuse('unmount', at);
    imgfuse('mount', '--allow-backing', url, 'disk.qcow2', at);
    server.plan({ do: 'silence', times: 100 });
    server.forget();
    const reader = spawn('dd', [`if=${at}/disk.raw`, 'of=/dev/null', 'bs=4k', 'count=1', 'skip=700'], {
      stdio: 'ignore',
    });
    const ended = exitOf(reader);
    await until(() => server!.requests().length > 0, 'the request for what is read');
    const begin = performance.now();
    const copy = bench.path('copy');
    run('dd', `if=${at}/disk.raw`, `of=${copy}`, 'bs=4k', 'count=1');
    expect(performance.now() - begin).toBeLessThan(5000);
    expect(readFileSync(copy).equals(written.subarray(0, 4096))).toBe(true);
    expect(reader.exitCode, 'the reader still waits').toBe(null);
    process.kill(bench.records()[0]!.pid, 'SIGTERM');
    await ended;
  });

  test('ends soon after SIGTERM, although a reader waits for a server that has fallen silent', async () => {
    server = new RangeServer(content(4 * MIB));
    const url = `${server.origin}/base.raw`;
    const at = bench.makeDirectory('mnt');
    imgfuse('create', '-q', '-f', 'qcow2', '-b', url, '-F', 'raw', 'disk.qcow2');
    imgfuse('mount', '--allow-backing', url, 'disk.qcow2', at);
    const { pid } = bench.records()[0]!;
    server.plan({ do: 'silence', times: 100 });
    server.forget();
    const reader = spawn('dd', [`if=${at}/disk.raw`, 'of=/dev/null', 'bs=4k', 'count=1', 'skip=700'], {
      stdio: 'ignore',
    });
    const ended = exitOf(reader);
    await until(() => server!.requests().length > 0, 'the request for what is read');
    process.kill(pid, 'SIGTERM');
    expect(await outlives(pid, 8000), 'the mount process waits for the server').toBe(false);
    expect(await ended).toBe(1);
    expect(bench.records()).toEqual([]);
    imgfuse('check', 'disk.qcow2');
  });

  test('of a URL is read-only, and its status says what went over the network', () => {
    server = new RangeServer(content(MIB));
    const url = `${server.origin}/base.raw`;
    const at = bench.makeDirectory('mnt');
    const refused = bench.imgfuse('mount', url, at, '--format', 'raw');
    expect(refused.code).not.toBe(0);
    expect(refused.stderr).toContain('mount it with -o ro');
    imgfuse('mount', url, at, '--format', 'raw', '-o', 'ro');
    expect(readFileSync(`${at}/disk.raw`).equals(content(MIB))).toBe(true);
    expect(network(at)).toMatchObject({ url, bytes: MIB });
    expect(imgfuse('status', at)).toMatch(/network: +http.*: 1 MiB in \d+ requests, 0 retries, 0 failures/);
    imgfuse('unmount', url);
  });
});
