// System calls on real files in a temporary directory.

import { spawnSync } from 'node:child_process';
import * as fs from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Worker } from 'node:worker_threads';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, SEEK_DATA, SEEK_HOLE } from '../../../src/bytes/linux.ts';
import { ImgfuseError } from '../../../src/errors/index.ts';
import {
  F_RDLCK,
  F_UNLCK,
  F_WRLCK,
  fallocate,
  getOfdLock,
  lseek,
  mount,
  nativeAvailable,
  receiveDescriptor,
  sendDatagram,
  setIoFlusher,
  setOfdLock,
  socketPair,
  umount2,
} from '../../../src/native/index.ts';
import { requireOrSkip } from '../../support/requirements.ts';
import { makeTemporaryDirectory, removeTemporaryDirectory } from '../../support/temporary.ts';

const SEEK_END = 2;

const MiB = 1024 * 1024;
const FAR = 6 * 1024 * MiB; // above 4 GiB, so that a 32-bit offset would show

let folder: string;
beforeAll(() => {
  folder = makeTemporaryDirectory();
});
afterAll(() => removeTemporaryDirectory(folder));

function failureOf(action: () => unknown): ImgfuseError {
  try {
    action();
  } catch (error) {
    expect(error).toBeInstanceOf(ImgfuseError);
    return error as ImgfuseError;
  }
  throw new Error('nothing was thrown');
}

function withFile(name: string, use: (fd: number, path: string) => void): void {
  const path = join(folder, name);
  const fd = fs.openSync(path, 'w+');
  try {
    use(fd, path);
  } finally {
    fs.closeSync(fd);
  }
}

test('koffi is there on the machines that run the tests', () => {
  expect(nativeAvailable()).toBe(true);
});

/** A bound Unix datagram socket; Node has none, so the test makes one with its own declarations. */
class DatagramReceiver {
  private readonly fd: number;
  private readonly recv: (...parameters: unknown[]) => number;

  constructor(name: string) {
    const library = createRequire(import.meta.url)('koffi').load(null);
    this.fd = library.func('int socket(int, int, int)')(1, 2, 0);
    this.recv = library.func('int64 recv(int, void *, size_t, int)');
    const address = Buffer.concat([Buffer.from([1, 0]), Buffer.from(name.replace('@', '\0'))]);
    expect(library.func('int bind(int, const void *, uint32)')(this.fd, address, address.length)).toBe(0);
  }

  receive(): string {
    const buffer = Buffer.alloc(64);
    const MSG_DONTWAIT = 0x40;
    return buffer.toString('utf8', 0, this.recv(this.fd, buffer, buffer.length, MSG_DONTWAIT));
  }

  close(): void {
    fs.closeSync(this.fd);
  }
}

describe('fallocate and lseek', () => {
  test('fallocate grows a file to an offset above 4 GiB', () => {
    withFile('grow', (fd) => {
      fallocate(fd, 0, FAR, 4096);
      expect(fs.fstatSync(fd).size).toBe(FAR + 4096);
    });
  });

  test('a punched hole reads as zeros, gives its space back and keeps the size', () => {
    withFile('punch', (fd) => {
      fs.writeSync(fd, Buffer.alloc(MiB, 0xaa), 0, MiB, 0);
      fs.fsyncSync(fd);
      const before = fs.fstatSync(fd).blocks;
      fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 65536, 65536);
      const range = Buffer.alloc(65536 + 2, 1);
      fs.readSync(fd, range, 0, range.length, 65535);
      expect(range[0]).toBe(0xaa);
      expect(range.subarray(1, -1).every((byte) => byte === 0)).toBe(true);
      expect(range.at(-1)).toBe(0xaa);
      expect(fs.fstatSync(fd).size).toBe(MiB);
      expect(fs.fstatSync(fd).blocks).toBeLessThan(before);
    });
  });

  test('SEEK_DATA, SEEK_HOLE and SEEK_END answer offsets above 4 GiB', () => {
    withFile('seek', (fd) => {
      fs.ftruncateSync(fd, FAR + 2 * MiB);
      fs.writeSync(fd, Buffer.alloc(65536, 1), 0, 65536, FAR);
      expect(lseek(fd, 0, SEEK_DATA)).toBe(FAR);
      expect(lseek(fd, FAR, SEEK_HOLE)).toBe(FAR + 65536);
      expect(lseek(fd, 0, SEEK_END)).toBe(FAR + 2 * MiB);
    });
  });

  test('seeking at the end is ENXIO', () => {
    withFile('end', (fd) => {
      const error = failureOf(() => lseek(fd, 0, SEEK_DATA));
      expect(error.kind).toBe('io');
      expect(error.context.errno).toBe(6);
      expect(error.context.operation).toBe('lseek');
      expect(error.message).toContain('ENXIO');
    });
  });

  test.each([1.5, -1, Number.NaN, 2 ** 53])('an offset of %d never reaches the kernel', (offset) => {
    withFile('unsafe', (fd) => {
      expect(() => fallocate(fd, 0, offset, 4096)).toThrow(/assertion/);
      expect(() => lseek(fd, offset, SEEK_DATA)).toThrow(/assertion/);
      expect(fs.fstatSync(fd).size).toBe(0);
    });
  });

  test('a closed descriptor is EBADF', () => {
    expect(failureOf(() => fallocate(-1, 0, 0, 1)).context.errno).toBe(9);
  });

  test('a full device is no-space', (context) => {
    requireOrSkip(context, process.geteuid?.() === 0, 'root');
    const target = join(folder, 'small');
    fs.mkdirSync(target);
    mount('tmpfs', target, 'tmpfs', 0, 'size=1m');
    try {
      const fd = fs.openSync(join(target, 'full'), 'w');
      const error = failureOf(() => fallocate(fd, 0, 0, 16 * MiB));
      fs.closeSync(fd);
      expect(error.kind).toBe('no-space');
    } finally {
      umount2(target, 0);
    }
    expect(failureOf(() => umount2(target, 0)).context.errno).toBe(22);
  });
});

describe('locks of open file descriptions', () => {
  test('a second open of the file sees the lock and is refused as busy', () => {
    withFile('lock', (first, path) => {
      const second = fs.openSync(path, 'r+');
      try {
        setOfdLock(first, F_RDLCK, 201, 1);
        setOfdLock(second, F_RDLCK, 201, 1);
        setOfdLock(second, F_UNLCK, 201, 1);
        expect(getOfdLock(second, F_WRLCK, 201, 1)).toEqual({ type: F_RDLCK, start: 201, length: 1 });
        expect(getOfdLock(second, F_WRLCK, 200, 1)).toBeUndefined();
        expect(getOfdLock(first, F_WRLCK, 201, 1)).toBeUndefined();
        const error = failureOf(() => setOfdLock(second, F_WRLCK, 201, 1));
        expect(error.kind).toBe('busy');
        setOfdLock(first, F_UNLCK, 201, 1);
        setOfdLock(second, F_WRLCK, 201, 1);
      } finally {
        fs.closeSync(second);
      }
    });
  });

  test('the lock stays when another descriptor of the file is closed', () => {
    withFile('lock-close', (first, path) => {
      setOfdLock(first, F_RDLCK, 100, 1);
      fs.closeSync(fs.openSync(path, 'r+'));
      const probe = fs.openSync(path, 'r+');
      expect(getOfdLock(probe, F_WRLCK, 100, 1)).toBeDefined();
      fs.closeSync(probe);
    });
  });
});

describe('sockets', () => {
  test('a connection that closes without a descriptor is an error, not a hang', () => {
    const [ours, theirs] = socketPair();
    fs.closeSync(theirs);
    expect(failureOf(() => receiveDescriptor(ours)).message).toContain('no descriptor');
    fs.closeSync(ours);
  });

  test.each(['path', 'abstract'])('a datagram arrives whole at a socket with a name of the kind: %s', (kind) => {
    const name = kind === 'path' ? join(folder, 'notify') : `@imgfuse-test-${process.pid}`;
    const receiver = new DatagramReceiver(name);
    try {
      sendDatagram(name, Buffer.from('READY=1'));
      expect(receiver.receive()).toBe('READY=1');
    } finally {
      receiver.close();
    }
  });

  test('a datagram to a socket that is not there is missing', () => {
    expect(failureOf(() => sendDatagram(join(folder, 'nobody'), Buffer.from('READY=1'))).kind).toBe('missing');
  });

  test('a datagram to an abstract name that nobody listens on is refused', () => {
    expect(failureOf(() => sendDatagram('@imgfuse-test-nobody', Buffer.from('x'))).message).toContain('ECONNREFUSED');
  });

  test('a socket path of 108 bytes is refused before any system call', () => {
    expect(failureOf(() => sendDatagram(`/${'a'.repeat(107)}`, Buffer.from('x'))).kind).toBe('usage');
  });
});

test('marking the thread as an I/O flusher works, or is refused as a matter of permission', () => {
  // needs CAP_SYS_RESOURCE, which root in a container may lack; vitest runs this file in a process of its own
  try {
    setIoFlusher();
  } catch (error) {
    expect((error as ImgfuseError).kind).toBe('permission');
    return;
  }
  const PR_GET_IO_FLUSHER = 58;
  const prctl = createRequire(import.meta.url)('koffi')
    .load(null)
    .func('int prctl(int option, ...)');
  const zeros = Array.from({ length: 4 }, () => ['ulong', 0]).flat();
  expect(prctl(PR_GET_IO_FLUSHER, ...zeros)).toBe(1);
});

test('the calls work from a worker thread, and errno is that of the calling thread', async () => {
  const module = new URL('../../../dist/native/index.js', import.meta.url).href;
  const start = (name: string) =>
    new Worker(
      `
    const { parentPort } = require('node:worker_threads');
    import(${JSON.stringify(module)}).then((native) => {
      const fs = require('node:fs');
      const fd = fs.openSync(${JSON.stringify(join(folder, name))}, 'w+');
      native.fallocate(fd, 0, 0, 8192);
      native.setOfdLock(fd, native.F_WRLCK, 0, 1);
      let errno = 0;
      try { native.lseek(fd, 8192, 3); } catch (error) { errno = error.context.errno; }
      parentPort.postMessage({ size: fs.fstatSync(fd).size, errno });
      fs.closeSync(fd);
    });`,
      { eval: true },
    );
  const workers = [start('first'), start('second')];
  const answers = await Promise.all(
    workers.map((worker) => new Promise((done, fail) => worker.once('message', done).once('error', fail))),
  );
  await Promise.all(workers.map((worker) => worker.terminate()));
  expect(answers).toEqual([
    { size: 8192, errno: 6 },
    { size: 8192, errno: 6 },
  ]);
});

test('without koffi every call is unsupported and names the package', () => {
  // the built modules in a place where no node_modules is above them
  const dist = fileURLToPath(new URL('../../../dist', import.meta.url));
  for (const part of ['native', 'errors', 'bytes']) {
    fs.cpSync(join(dist, part), join(folder, 'alone', part), { recursive: true });
  }
  fs.writeFileSync(join(folder, 'alone', 'package.json'), '{"type":"module"}');
  const script = `
    const native = await import(${JSON.stringify(join(folder, 'alone', 'native', 'index.js'))});
    let kind, message;
    try { native.lseek(0, 0, 0); } catch (error) { ({ kind, message } = error); }
    console.log(JSON.stringify({ available: native.nativeAvailable(), kind, message }));`;
  const child = spawnSync(process.execPath, ['--input-type=module', '-e', script], { encoding: 'utf8', cwd: folder });
  const answer = JSON.parse(child.stdout);
  expect(answer).toMatchObject({ available: false, kind: 'unsupported' });
  expect(answer.message).toContain('koffi');
});
