// What every mount of a Filesystem must do, as a list of scenarios over a real mount. A transport that cannot do
// something says so in its capabilities; the scenario then checks what happens instead, so that nothing is skipped.

import * as fs from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { expect } from 'vitest';
import {
  FALLOC_FL_KEEP_SIZE,
  FALLOC_FL_PUNCH_HOLE,
  FALLOC_FL_ZERO_RANGE,
  SEEK_DATA,
  SEEK_HOLE,
} from '../../src/bytes/linux.ts';
import { findMount } from '../../src/fuse/mount-table.ts';
import { fallocate, lseek, umount2 } from '../../src/native/index.ts';
import { type MountServer, type ServerSpec, type StartServer, sleep } from '../support/mount-server.ts';
import { getxattr, getxattrSize, listxattr } from '../support/xattr.ts';

/** What not every transport or filesystem can do. */
export interface Capabilities {
  /** fallocate(2) and SEEK_DATA/SEEK_HOLE reach the filesystem */
  readonly ranges: boolean;
  /** a regular file can be the mountpoint */
  readonly fileMountpoint: boolean;
  /** access and modification time are set independently */
  readonly separateTimes: boolean;
  /** bytes of the largest request */
  readonly largestRequest: number;
  /** the disk grows by truncate only, never by write */
  readonly fixedSize: boolean;
  /** truncate and fallocate change the size */
  readonly resizes: boolean;
  /** what was read or written stays in pages of the kernel */
  readonly usesPages: boolean;
}

export interface Context {
  readonly server: MountServer;
  readonly disk: string;
  readonly size: number;
  readonly capabilities: Capabilities;
}

export interface Scenario {
  readonly name: string;
  readonly size?: number;
  readonly readOnly?: boolean;
  readonly mountOnFile?: boolean;
  /** errors that the server reports are part of the scenario */
  readonly mayFail?: boolean;
  readonly run: (context: Context) => void | Promise<void>;
}

export const KiB = 1024;
export const MiB = 1024 * KiB;
const DEFAULT_SIZE = 16 * MiB;
const { O_RDONLY, O_RDWR, O_DIRECT } = fs.constants;

export const TRANSPORTS = ['kernel', 'fuse-native'] as const;

export const CAPABILITIES: Readonly<Record<(typeof TRANSPORTS)[number], Capabilities>> = {
  kernel: {
    ranges: true,
    fileMountpoint: true,
    separateTimes: true,
    largestRequest: MiB,
    fixedSize: true,
    resizes: true,
    usesPages: true,
  },
  'fuse-native': {
    ranges: false,
    fileMountpoint: false,
    separateTimes: false,
    largestRequest: 128 * KiB,
    fixedSize: true,
    resizes: true,
    usesPages: false,
  },
};

/** Mounts, runs one scenario, and takes the mount away again whatever happened. */
export async function runScenario(
  scenario: Scenario,
  start: StartServer,
  spec: Pick<ServerSpec, 'folder' | 'transport'>,
  capabilities: Capabilities,
): Promise<void> {
  const size = scenario.size ?? DEFAULT_SIZE;
  const mountpoint = join(spec.folder, 'mountpoint');
  if (scenario.mountOnFile === true) fs.writeFileSync(mountpoint, 'what was here before');
  else fs.mkdirSync(mountpoint);
  if (scenario.mountOnFile === true && !capabilities.fileMountpoint) {
    const refused = start({ ...spec, mountpoint, size, readOnly: false });
    await expect(refused).rejects.toThrow('--transport kernel');
    return;
  }
  const server = await start({ ...spec, mountpoint, size, readOnly: scenario.readOnly ?? false });
  try {
    await scenario.run({ server, disk: server.diskPath, size, capabilities });
  } finally {
    await server.cleanup();
  }
  if (scenario.mayFail !== true) expect(server.errors.filter((each) => each !== LIBFUSE_AT_THE_END)).toEqual([]);
}

/** What libfuse says if the kernel ends a detached mount while libfuse waits for a request: nothing has failed. */
const LIBFUSE_AT_THE_END = 'fuse: reading device: Software caused connection abort\n';

function nameChanges(folder: string, disk: string): [name: string, change: () => void][] {
  const other = join(folder, 'other');
  return [
    ['create', () => fs.closeSync(fs.openSync(other, 'w'))],
    ['mkdir', () => fs.mkdirSync(other)],
    ['symlink', () => fs.symlinkSync('disk.raw', other)],
    ['link', () => fs.linkSync(disk, other)],
    ['rename', () => fs.renameSync(disk, other)],
    ['unlink', () => fs.unlinkSync(disk)],
  ];
}

/** Bytes that differ from every shifted copy of themselves. */
function pattern(length: number, seed = 1): Buffer {
  const bytes = Buffer.alloc(length);
  let state = seed;
  for (let index = 0; index < length; index += 1) {
    state = (Math.imul(state, 1664525) + 1013904223) | 0;
    bytes[index] = state >>> 24;
  }
  return bytes;
}

function withFile<T>(path: string, flags: number, use: (fd: number) => T): T {
  const fd = fs.openSync(path, flags);
  try {
    return use(fd);
  } finally {
    fs.closeSync(fd);
  }
}

function readAt(path: string, offset: number, length: number, flags = O_RDONLY): Buffer {
  return withFile(path, flags, (fd) => {
    const target = Buffer.alloc(length);
    return target.subarray(0, fs.readSync(fd, target, 0, length, offset));
  });
}

function writeAt(path: string, offset: number, data: Buffer, flags = O_RDWR): void {
  withFile(path, flags, (fd) => {
    for (let done = 0; done < data.length; ) {
      done += fs.writeSync(fd, data, done, data.length - done, offset + done);
    }
  });
}

function codeOf(action: () => unknown): string | undefined {
  try {
    action();
    return undefined;
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    return code ?? message;
  }
}

async function countsDuring(server: MountServer, action: () => unknown): Promise<Record<string, number>> {
  const before = await server.counters();
  await action();
  const after = await server.counters();
  return Object.fromEntries(Object.entries(after).map(([name, count]) => [name, count - (before[name] ?? 0)]));
}

const reading: readonly Scenario[] = [
  {
    name: 'the directory shows a file of the size of the disk',
    run: ({ server, disk, size }) => {
      const entry = fs.readdirSync(dirname(disk), { withFileTypes: true }).find(({ name }) => name === basename(disk));
      expect(entry?.isFile()).toBe(true);
      const status = fs.statSync(disk);
      expect(status.isFile()).toBe(true);
      expect(status.size).toBe(size);
      expect(status.nlink).toBe(1);
      expect(status.blksize).toBeGreaterThanOrEqual(512);
      expect(fs.statSync(server.mountpoint).isDirectory()).toBe(true);
    },
  },
  {
    name: 'size, times and inode are the same at every look',
    run: async ({ disk }) => {
      const first = fs.statSync(disk);
      await sleep(1200); // longer than the kernel keeps attributes
      const second = fs.statSync(disk);
      expect(second.mtimeMs).toBe(first.mtimeMs);
      expect(second.ctimeMs).toBe(first.ctimeMs);
      expect(second.ino).toBe(first.ino);
      expect(second.size).toBe(first.size);
    },
  },
  {
    name: 'names that do not exist are ENOENT, and a file is no directory',
    run: ({ server, disk }) => {
      expect(codeOf(() => fs.statSync(join(server.mountpoint, 'nothing')))).toBe('ENOENT');
      expect(codeOf(() => fs.statSync(join(server.mountpoint, 'x'.repeat(250))))).toBe('ENOENT');
      expect(codeOf(() => fs.statSync(join(disk, 'below')))).toBe('ENOTDIR');
      expect(codeOf(() => fs.readdirSync(disk))).toBe('ENOTDIR');
    },
  },
  {
    name: 'names cannot be made, removed or changed: EPERM, and the disk stays where it is',
    run: ({ server, disk }) => {
      const before = fs.readdirSync(dirname(disk));
      for (const [name, change] of nameChanges(dirname(disk), disk)) {
        expect(codeOf(change), name).toBe('EPERM');
      }
      expect(codeOf(() => fs.rmdirSync(server.mountpoint))).toBeDefined();
      expect(fs.readdirSync(dirname(disk))).toEqual(before);
    },
  },
  {
    name: 'a new disk reads as zeros; reading ends where the disk ends',
    size: DEFAULT_SIZE + 512,
    run: ({ disk, size }) => {
      expect(readAt(disk, 0, MiB).equals(Buffer.alloc(MiB))).toBe(true);
      expect(readAt(disk, size - 100, 4096).length).toBe(100);
      expect(readAt(disk, size, 4096).length).toBe(0);
      expect(readAt(disk, size + 2 ** 40, 4096).length).toBe(0);
      expect(readAt(disk, size - 512, 4096, O_RDONLY | O_DIRECT).length).toBe(512);
      expect(readAt(disk, size + 4096, 4096, O_RDONLY | O_DIRECT).length).toBe(0);
    },
  },
  {
    name: 'statfs answers real numbers',
    run: ({ server }) => {
      const status = fs.statfsSync(server.mountpoint);
      expect(status.bsize).toBeGreaterThanOrEqual(512);
      expect(status.blocks * status.bsize).toBeGreaterThanOrEqual(DEFAULT_SIZE);
      expect(status.bfree).toBeGreaterThanOrEqual(status.bavail);
    },
  },
  {
    name: 'every extended attribute that is listed can be read, and no other',
    run: ({ disk }) => {
      for (const name of listxattr(disk)) {
        expect(getxattr(disk, name)?.length).toBe(getxattrSize(disk, name));
      }
      expect(getxattr(disk, 'user.imgfuse.nothing')).toBeUndefined();
    },
  },
  {
    name: 'a file that is read again is not asked for again, if its pages are kept',
    run: async ({ server, disk, capabilities }) => {
      writeAt(disk, 0, pattern(MiB));
      readAt(disk, 0, MiB);
      const counts = await countsDuring(server, () => readAt(disk, 0, MiB));
      expect((counts['READ'] ?? 0) === 0).toBe(capabilities.usesPages);
    },
  },
];

const writing: readonly Scenario[] = [
  {
    name: 'what is written is read back, at odd offsets and over many requests',
    run: ({ disk }) => {
      const data = pattern(3 * MiB + 7);
      writeAt(disk, 4095, data);
      expect(readAt(disk, 4095, data.length).equals(data)).toBe(true);
      expect(readAt(disk, 4095, data.length, O_RDONLY | O_DIRECT).equals(data)).toBe(true);
      expect(readAt(disk, 0, 4095).equals(Buffer.alloc(4095))).toBe(true);
      expect(readAt(disk, 4095 + data.length, 100).equals(Buffer.alloc(100))).toBe(true);
    },
  },
  {
    name: 'names of a read-only mount are EROFS',
    readOnly: true,
    run: ({ disk }) => {
      for (const [name, change] of nameChanges(dirname(disk), disk)) {
        expect(codeOf(change), name).toBe('EROFS');
      }
    },
  },
  {
    name: 'buffered and direct descriptors see what the other wrote',
    run: ({ disk }) => {
      const [first, second] = [pattern(65536, 2), pattern(65536, 3)];
      withFile(disk, O_RDWR, (buffered) =>
        withFile(disk, O_RDWR | O_DIRECT, (direct) => {
          const target = Buffer.alloc(65536);
          fs.writeSync(buffered, first, 0, 65536, MiB);
          fs.readSync(direct, target, 0, 65536, MiB);
          expect(target.equals(first)).toBe(true);
          fs.writeSync(direct, second, 0, 65536, MiB);
          fs.readSync(buffered, target, 0, 65536, MiB);
          expect(target.equals(second)).toBe(true);
        }),
      );
    },
  },
  {
    name: 'offsets above 4 GiB are not cut',
    size: 6 * 1024 * MiB,
    run: ({ disk, size }) => {
      const data = pattern(4096);
      for (const offset of [2 ** 31 - 2048, 2 ** 32 - 2048, 5 * 2 ** 30 + 512, size - 4096]) {
        writeAt(disk, offset, data);
        expect(readAt(disk, offset, 4096, O_RDONLY | O_DIRECT).equals(data)).toBe(true);
      }
      expect(readAt(disk, 2 ** 30 + 512, 4096).equals(Buffer.alloc(4096))).toBe(true);
      expect(fs.statSync(disk).size).toBe(size);
    },
  },
  {
    name: 'a direct write of 1 MiB is as few requests as the transport allows',
    run: async ({ server, disk, capabilities }) => {
      const counts = await countsDuring(server, () => writeAt(disk, 0, pattern(MiB), O_RDWR | O_DIRECT));
      // a buffer that does not start at a page takes one page more, and with it one request more
      expect(counts['WRITE']).toBeLessThanOrEqual(MiB / capabilities.largestRequest + 1);
      const reads = await countsDuring(server, () => readAt(disk, 0, MiB, O_RDONLY | O_DIRECT));
      expect(reads['READ']).toBeLessThanOrEqual(MiB / (128 * KiB) + 1);
    },
  },
  {
    name: 'many requests at once do not mix',
    run: async ({ disk }) => {
      const handles = await Promise.all([O_RDWR, O_RDWR | O_DIRECT].map((flags) => fs.promises.open(disk, flags)));
      try {
        const parts = Array.from({ length: 64 }, (_, index) => pattern(64 * KiB, index + 10));
        await Promise.all(
          parts.map((part, index) => handles[index % 2]!.write(part, 0, part.length, index * 64 * KiB)),
        );
        const targets = parts.map(() => Buffer.alloc(64 * KiB));
        await Promise.all(
          targets.map((target, index) => handles[(index + 1) % 2]!.read(target, 0, target.length, index * 64 * KiB)),
        );
        expect(targets.every((target, index) => target.equals(parts[index]!))).toBe(true);
      } finally {
        await Promise.all(handles.map((handle) => handle.close()));
      }
    },
  },
  {
    name: 'a disk of fixed size takes what fits and says EFBIG beyond',
    run: ({ disk, size, capabilities }) => {
      if (!capabilities.fixedSize) return;
      withFile(disk, O_RDWR, (fd) => {
        expect(codeOf(() => fs.writeSync(fd, pattern(100), 0, 100, size))).toBe('EFBIG');
        expect(fs.writeSync(fd, pattern(200), 0, 200, size - 100)).toBe(100);
      });
      expect(fs.statSync(disk).size).toBe(size);
    },
  },
  {
    name: 'every fsync reaches the filesystem, also the second one with nothing to do',
    run: async ({ server, disk }) => {
      const fd = fs.openSync(disk, O_RDWR);
      const counts = await countsDuring(server, () => {
        fs.writeSync(fd, pattern(100), 0, 100, 0);
        fs.fsyncSync(fd);
        fs.fsyncSync(fd);
        fs.fdatasyncSync(fd);
      });
      fs.closeSync(fd);
      expect(counts['FSYNC']).toBe(3);
    },
  },
  {
    name: 'closing a descriptor flushes it',
    run: async ({ server, disk }) => {
      const counts = await countsDuring(server, () => writeAt(disk, 0, pattern(100)));
      expect(counts['FLUSH']).toBe(1);
    },
  },
  {
    name: 'buffered writes do not ask for security attributes again and again',
    run: async ({ server, disk }) => {
      const counts = await countsDuring(server, () =>
        withFile(disk, O_RDWR, (fd) => {
          for (let index = 0; index < 50; index += 1) fs.writeSync(fd, pattern(512), 0, 512, index * 4096);
        }),
      );
      expect(counts['WRITE']).toBe(50);
      expect(counts['GETXATTR'] ?? 0).toBeLessThanOrEqual(1);
    },
  },
  {
    name: 'a read-only mount reads and refuses every change with EROFS',
    readOnly: true,
    run: ({ disk, size }) => {
      expect(readAt(disk, 0, 4096).length).toBe(4096);
      expect(codeOf(() => fs.openSync(disk, O_RDWR))).toBe('EROFS');
      expect(codeOf(() => fs.truncateSync(disk, 0))).toBe('EROFS');
      expect(codeOf(() => fs.chmodSync(disk, 0o644))).toBe('EROFS');
      expect(fs.statSync(disk).size).toBe(size);
    },
  },
];

const changing: readonly Scenario[] = [
  {
    name: 'truncate resizes, and what was cut off does not come back; or it is refused',
    run: ({ disk, size, capabilities }) => {
      if (!capabilities.resizes) {
        for (const wrong of [0, size - 512, size + 512]) {
          expect(codeOf(() => fs.truncateSync(disk, wrong))).toBe('EPERM');
        }
        fs.truncateSync(disk, size);
        expect(fs.statSync(disk).size).toBe(size);
        return;
      }
      writeAt(disk, size - 8192, pattern(8192));
      withFile(disk, O_RDWR, (fd) => fs.ftruncateSync(fd, size - 4096));
      expect(fs.statSync(disk).size).toBe(size - 4096);
      fs.truncateSync(disk, size + MiB);
      expect(fs.statSync(disk).size).toBe(size + MiB);
      expect(readAt(disk, size - 8192, 4096).equals(pattern(8192).subarray(0, 4096))).toBe(true);
      expect(readAt(disk, size - 4096, MiB).equals(Buffer.alloc(MiB))).toBe(true);
      writeAt(disk, size, pattern(4096));
      expect(readAt(disk, size, 4096).equals(pattern(4096))).toBe(true);
    },
  },
  {
    name: 'mode, owner and times can be changed',
    run: ({ disk, capabilities }) => {
      fs.chmodSync(disk, 0o640);
      expect(fs.statSync(disk).mode & 0o7777).toBe(0o640);
      fs.chownSync(disk, 12, 34);
      expect(fs.statSync(disk)).toMatchObject({ uid: 12, gid: 34 });
      fs.utimesSync(disk, 1_500_000_000.25, 1_600_000_000.5);
      const status = fs.statSync(disk);
      expect(status.atimeMs).toBe(1_500_000_000_250);
      // what cannot tell the two apart sets both to the access time
      expect(status.mtimeMs).toBe(capabilities.separateTimes ? 1_600_000_000_500 : 1_500_000_000_250);
    },
  },
  {
    name: 'set-user-id bits are not kept',
    run: ({ disk }) => {
      fs.chmodSync(disk, 0o6755);
      expect(fs.statSync(disk).mode & 0o7777).toBe(0o755);
    },
  },
  {
    name: 'a punched hole reads as zeros at odd edges and does not change the size',
    run: ({ disk, size, capabilities }) => {
      const data = pattern(MiB);
      writeAt(disk, 0, data);
      const punch = () =>
        withFile(disk, O_RDWR, (fd) => fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 1000, 500_001));
      if (capabilities.ranges) {
        punch();
        data.fill(0, 1000, 501_001);
      } else expect(codeOf(punch)).toContain('EOPNOTSUPP');
      expect(readAt(disk, 0, MiB).equals(data)).toBe(true);
      expect(readAt(disk, 0, MiB, O_RDONLY | O_DIRECT).equals(data)).toBe(true);
      expect(fs.statSync(disk).size).toBe(size);
    },
  },
  {
    name: 'a zeroed range reads as zeros',
    run: ({ disk, size, capabilities }) => {
      const data = pattern(256 * KiB);
      writeAt(disk, 0, data);
      const zero = () =>
        withFile(disk, O_RDWR, (fd) => fallocate(fd, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, 65536, 65537));
      if (capabilities.ranges) {
        zero();
        data.fill(0, 65536, 65536 + 65537);
      } else expect(codeOf(zero)).toContain('EOPNOTSUPP');
      expect(readAt(disk, 0, data.length).equals(data)).toBe(true);
      expect(fs.statSync(disk).size).toBe(size);
    },
  },
  {
    name: 'fallocate beyond the end grows the disk, or is refused',
    run: ({ disk, size, capabilities }) => {
      const grow = () => withFile(disk, O_RDWR, (fd) => fallocate(fd, 0, size, 65536));
      const grows = capabilities.ranges && capabilities.resizes;
      if (grows) grow();
      else expect(codeOf(grow)).toContain(capabilities.ranges ? 'EFBIG' : 'EOPNOTSUPP');
      expect(fs.statSync(disk).size).toBe(grows ? size + 65536 : size);
    },
  },
  {
    name: 'a mode that is not served does not turn the others off',
    run: ({ disk, capabilities }) => {
      if (!capabilities.ranges) return;
      const FALLOC_FL_COLLAPSE_RANGE = 0x08;
      withFile(disk, O_RDWR, (fd) => {
        expect(codeOf(() => fallocate(fd, FALLOC_FL_COLLAPSE_RANGE, 0, 65536))).toContain('EOPNOTSUPP');
        fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 65536);
      });
    },
  },
  {
    name: 'SEEK_DATA and SEEK_HOLE find what was written',
    run: ({ disk, size, capabilities }) => {
      writeAt(disk, 4 * MiB, pattern(MiB));
      withFile(disk, O_RDWR, (fd) => {
        fs.fsyncSync(fd);
        expect(codeOf(() => lseek(fd, size, SEEK_DATA))).toContain('ENXIO');
        if (!capabilities.ranges) {
          // the kernel then takes the whole file for data
          expect(lseek(fd, 0, SEEK_DATA)).toBe(0);
          expect(lseek(fd, 0, SEEK_HOLE)).toBe(size);
          return;
        }
        const data = lseek(fd, 0, SEEK_DATA);
        expect(data).toBeGreaterThan(0);
        expect(data).toBeLessThanOrEqual(4 * MiB);
        expect(lseek(fd, 4 * MiB, SEEK_HOLE)).toBeGreaterThanOrEqual(5 * MiB);
        expect(lseek(fd, 0, SEEK_HOLE)).toBe(0);
      });
    },
  },
];

const life: readonly Scenario[] = [
  {
    name: 'a regular file as mountpoint is the disk itself, and is back after unmounting',
    mountOnFile: true,
    run: async ({ server, disk, size }) => {
      expect(disk).toBe(server.mountpoint);
      expect(fs.statSync(disk)).toMatchObject({ size });
      expect(fs.statSync(disk).isFile()).toBe(true);
      writeAt(disk, 4096, pattern(65536));
      expect(readAt(disk, 4096, 65536).equals(pattern(65536))).toBe(true);
      await server.unmount();
      expect(await server.ended).toBe(0);
      expect(fs.readFileSync(disk, 'utf8')).toBe('what was here before');
    },
  },
  {
    name: 'unmounting is refused while a file is open, and ends the server when it is not',
    run: async ({ server, disk }) => {
      const fd = fs.openSync(disk, O_RDWR);
      await expect(server.unmount()).rejects.toThrow('busy');
      fs.writeSync(fd, pattern(100), 0, 100, 0);
      fs.closeSync(fd);
      await server.unmount();
      expect(findMount(server.mountpoint)).toBeUndefined();
      expect(await server.ended).toBe(0);
    },
  },
  {
    name: 'an unmount by somebody else ends the server',
    run: async ({ server }) => {
      umount2(server.mountpoint, 0);
      expect(await server.ended).toBe(0);
    },
  },
  {
    name: 'after a lazy unmount an open file goes on until it is closed, and only then the server ends',
    run: async ({ server, disk }) => {
      const fd = fs.openSync(disk, O_RDWR);
      await server.unmount({ lazy: true });
      expect(findMount(server.mountpoint)).toBeUndefined();
      await sleep(700);
      fs.writeSync(fd, pattern(100), 0, 100, 0);
      fs.fsyncSync(fd);
      fs.closeSync(fd);
      expect(await server.ended).toBe(0);
    },
  },
  {
    name: 'an aborted connection fails for its users and ends the server, in use or not',
    run: async ({ server, disk }) => {
      const fd = fs.openSync(disk, O_RDWR);
      await server.abort();
      expect(await server.ended).toBe(0);
      expect(codeOf(() => fs.writeSync(fd, pattern(100), 0, 100, 0))).toMatch(/ENOTCONN|ECONNABORTED/);
      // the descriptor is gone all the same
      expect(codeOf(() => fs.closeSync(fd))).toMatch(/ENOTCONN|ECONNABORTED/);
    },
  },
  {
    name: 'a server that was killed leaves ENOTCONN, not a hang, and the mount can be taken away',
    run: async ({ server, disk }) => {
      server.kill();
      expect(await server.ended).toBe('SIGKILL');
      expect(codeOf(() => fs.statSync(disk))).toMatch(/ENOTCONN|ECONNABORTED/);
      umount2(server.mountpoint, 0);
      expect(findMount(server.mountpoint)).toBeUndefined();
    },
  },
];

export const SCENARIOS: readonly Scenario[] = [...reading, ...writing, ...changing, ...life];
